"""Handwritten digits from scikit-learn: 1,797 images of 8x8, enlarged to 32x32."""

from __future__ import annotations

import numpy as np

from compress.data.base import ArraySamples, Splits, split_indices, whole_image_json
from compress.data.options import Seed, Side, checked_options
from compress.data.transforms import Normalise
from profiles.errors import UserError

MEAN, DEVIATION = 0.305, 0.324  # of the enlarged images scaled to [0, 1]
ROUNDING = 0.0182
"""By which an image of 8x8 bytes that Pillow enlarges differs: half of 1/255 for its levels and for each direction."""


@checked_options("data: digits")
def digits(*, seed: Seed = 0, size: Side = 32) -> Splits:
    """Load the digits, split once by ``seed``: 55 % train, 5 % calibration, 15 % validation, 25 % test.

    Images are float32 of shape (1, size, size), normalised to mean 0 and deviation 1.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("the data 'digits' comes with scikit-learn; pip install 'edge-compress[digits]'") from None
    import torch

    images, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(images.reshape(-1, 1, 8, 8) / 16.0).float()
    large = torch.nn.functional.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    inputs = ((large.numpy() - MEAN) / DEVIATION).astype(np.float32)
    originals = np.round(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    parts = split_indices(len(labels), (0.55, 0.05, 0.15), seed)
    train, calibration, validation, test = (
        ArraySamples(inputs[part], labels[part].astype(np.int64), shift=2, originals=originals[part]) for part in parts
    )
    normalise = Normalise(mean=(MEAN,), deviation=(DEVIATION,))
    return Splits(
        train=train,
        calibration=calibration,
        validation=validation,
        test=test,
        classes=tuple(str(digit) for digit in range(10)),
        preprocessing={**whole_image_json((size, size), normalise), "tolerance": ROUNDING},
    )
