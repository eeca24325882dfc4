"""DS-CNN: its front end computes what numpy does, is left alone by stages, and stays float in integers."""

import numpy as np
import torch

from compress.methods.pruning.structure.coupling import find_structure
from compress.models import ds_cnn
from deploy.export.to_onnx import capture, to_onnx
from deploy.onnx_graph.run import onnx_session
from deploy.processing.log_mel import LogMel
from deploy.qdq.placement import place
from profiles.quantization import QUANTIZATION

SMALL = {"rate": 8000, "mels": 16, "channels": 16, "blocks": 1, "classes": 3}
SOUND = np.random.default_rng(0).normal(0, 0.1, (2, 1, 2000)).astype(np.float32)


def test_the_front_end_computes_what_numpy_does():
    model = ds_cnn(**SMALL).eval()
    spectra = model.front_end(torch.from_numpy(SOUND))
    expected = LogMel(rate=8000, mels=16)(SOUND)
    assert spectra.shape == expected.shape
    np.testing.assert_allclose(spectra.numpy(), expected, atol=1e-4)
    without = ds_cnn(**SMALL, front_end=False).eval()
    without.load_state_dict(model.state_dict())
    with torch.no_grad():
        np.testing.assert_allclose(
            without(torch.from_numpy(expected)).numpy(), model(torch.from_numpy(SOUND)).numpy(), atol=1e-4
        )


def test_it_computes_in_32_bits_where_the_rest_is_trained_in_16():
    model = ds_cnn(**SMALL).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        spectra = model.front_end(torch.from_numpy(SOUND))
    torch.testing.assert_close(spectra, model.front_end(torch.from_numpy(SOUND)))


def test_layers_that_a_logarithm_reads_stay_float_and_all_others_are_integers():
    model = ds_cnn(**SMALL).eval()
    exported = to_onnx(capture(model, [torch.from_numpy(SOUND)]))
    np.testing.assert_allclose(
        onnx_session(exported)(SOUND)[0], model(torch.from_numpy(SOUND)).detach().numpy(), rtol=1e-3, atol=1e-4
    )
    placement = place(exported, QUANTIZATION["x86-vnni"])
    assert [why for _, why in placement.kept_float] == ["a logarithm reads it"] * 2
    layers = [node for node in exported.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(placement.weights) == len(layers) - 2 == 4


def test_pruning_leaves_the_front_end_alone_and_cuts_what_follows():
    model = ds_cnn(**SMALL).eval()
    structure = find_structure(model, torch.from_numpy(SOUND))
    assert structure.fixed["front_end"] in ("front_end.waves is constant", "front_end.triangles is constant")
    cut = {slices.tensor for channels in structure.sets for slices in channels.slices}
    assert {"stem.0.weight", "blocks.0.1.0.weight", "linear.weight"} <= cut
    assert not any(name.startswith("front_end") for name in cut)
