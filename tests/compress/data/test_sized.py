"""Keys of samples that are brought to sizes."""

from dataclasses import replace

import numpy as np

from compress.data.base import NamedSamples
from compress.data.sized import SizedSamples
from deploy.engines.serving import Sizes


def test_all_that_batches_are_cut_by_is_in_the_key():
    """Training cuts a batch to the smallest size that holds it, where its mask ends: other sizes train another model."""
    ids = np.ones((4, 8), np.int64)
    samples = NamedSamples({"ids": ids, "mask": ids}, np.zeros(4, np.int64))
    sizes = Sizes(name="length", sizes=(4, 8), axes={"ids": 1, "mask": 1}, mask="mask")
    others = [sizes, replace(sizes, sizes=(8,)), replace(sizes, sizes=(2, 8)), replace(sizes, mask="")]
    assert len({SizedSamples(samples, each).fingerprint() for each in others}) == len(others)
