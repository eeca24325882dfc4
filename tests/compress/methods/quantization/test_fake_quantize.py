import numpy as np
import onnxruntime
import pytest
import torch

from compress.data.base import ArraySamples
from compress.methods.quantization.fake_quantize import QuantizedProgram, Quantizer
from compress.methods.quantization.operations import Quantize
from compress.methods.quantization.post_training import PostTraining, calibrate
from deploy.export.to_onnx import capture, to_onnx
from deploy.qdq.insert import insert
from profiles.quantization import QUANTIZATION
from tests.conftest import randomise_batch_norms, small_model
from tests.zoo import ZOO


def test_rounding_by_hand():
    quantizer = Quantizer(torch.tensor(0.5), 0, bits=8, signed=False, narrow=False).eval()
    values = torch.tensor([-1.0, 0.1, 0.3, 1.0, 1000.0])
    assert quantizer(values).tolist() == [0.0, 0.0, 0.5, 1.0, 127.5]
    narrow = Quantizer(torch.tensor(1.0), 0, bits=8, signed=True, narrow=True).eval()
    assert narrow(torch.tensor([-500.0, 500.0])).tolist() == [-127.0, 127.0]


def test_a_zero_point_shifts_the_range():
    quantizer = Quantizer(torch.tensor(1.0), 100, bits=8, signed=False, narrow=False).eval()
    assert quantizer(torch.tensor([-300.0, 0.0, 300.0])).tolist() == [-100.0, 0.0, 155.0]


def test_gradients_pass_inside_the_range_and_stop_outside():
    quantizer = Quantizer(torch.tensor(1.0), 0, bits=8, signed=False, narrow=False)
    values = torch.tensor([-5.0, 3.3, 400.0], requires_grad=True)
    quantizer(values).sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 0.0]
    assert all(p.grad is not None for p in quantizer.parameters())


def test_the_scale_learns_and_stays_positive():
    torch.manual_seed(0)
    quantizer = Quantizer(torch.tensor(1.0), 0, bits=8, signed=False, narrow=False).train()
    values = torch.rand(4096) * 2.55
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        (quantizer(values) - values).square().sum().backward()
        optimizer.step()
    assert 0 < quantizer.scale().item() < 0.2, "1.0 is far too coarse for values up to 2.55"


MADE: list[Quantize] = []
"""The quantisation of the small model, which takes seconds and is the same for all tests."""


@pytest.fixture
def program(context) -> tuple[QuantizedProgram, Quantize]:
    if not MADE:
        MADE.append(context.quantization(small_model(), PostTraining(ranges="minmax")).quantize)
    return MADE[0].apply(small_model()), MADE[0]


def test_it_runs_as_the_module_does_but_for_rounding(program, context):
    inputs = torch.from_numpy(context.data.test.load(np.arange(32)).inputs)
    with torch.no_grad():
        ours, plain = program[0].eval()(inputs), small_model().eval()(inputs)
    assert torch.nn.functional.cosine_similarity(ours.flatten(), plain.flatten(), 0) > 0.995
    assert not torch.equal(ours, plain)


def test_it_is_shown_in_a_line(program):
    """The small model has three layers with weights."""
    weights = sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in small_model().modules())
    assert repr(program[0]).startswith(f"QuantizedProgram({weights} weights and ") and "\n" not in repr(program[0])


def test_what_was_trained_is_what_runs(program, context):
    """Train a step, export, and compare the engine's integers with the fake-quantised module."""
    module = program[0]
    context.train("quantize", module, _losses(), _one_step())
    plain = to_onnx(module.float_program())
    model = insert(plain, module.placement, module.scales(), QUANTIZATION["x86-vnni"])
    inputs = context.data.test.load(np.arange(32)).inputs
    outputs = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": inputs})[0]
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(inputs)).numpy()
    assert np.abs(outputs - expected).max() < 0.05 * np.abs(expected).max()
    assert (outputs.argmax(1) == expected.argmax(1)).mean() > 0.9


def test_training_moves_weights_and_scales_and_not_the_source(context):
    source = small_model()
    before = {k: v.clone() for k, v in source.state_dict().items()}
    operation = context.quantization(source, PostTraining(ranges="minmax")).quantize
    module = operation.apply(small_model())
    scales = module.scales()
    context.train("quantize", module, _losses(), _one_step())
    moved = module.scales()
    assert any(moved.activations[t] != scales.activations[t] for t in scales.activations)
    assert any((moved.weights[t] != scales.weights[t]).any() for t in scales.weights)
    assert all(torch.equal(before[k], v) for k, v in source.state_dict().items())


def test_a_carried_scale_is_the_same_quantizer(program):
    module, operation = program
    scales = module.scales().activations
    carried = [a for a in operation.placement.activations if a.like]
    assert carried
    assert all(scales[a.tensor] == scales[a.like] for a in carried)


def test_tensors_of_a_shuffle_learn_one_scale_and_run_as_trained():
    """Pairs stand where a shuffle is entered; the file computes what the program does, moves and concatenations too."""
    torch.manual_seed(0)
    source, inputs = ZOO["shuffle"]().eval(), np.random.default_rng(0).normal(size=(32, 3, 16, 16))
    randomise_batch_norms(source)
    samples = ArraySamples(inputs.astype(np.float32), np.zeros(32, np.int64))
    example = [torch.from_numpy(samples.load(np.arange(2)).inputs)]
    operation = calibrate(to_onnx(capture(source, example)), samples, "x86-no-vnni", "minmax")
    module = operation.apply(source)
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.mul_(1.1) if "activation_quantizer" in name else None
    scales = module.scales()
    alike = {scales.activations[a.tensor] for a in operation.placement.activations if "relu" in (a.tensor, a.like)}
    assert alike == {scales.activations["relu"]} != {operation.activations["relu"]}
    model = insert(to_onnx(module.float_program()), module.placement, scales, QUANTIZATION["x86-no-vnni"])
    given = samples.load(np.arange(32)).inputs
    outputs = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": given})[0]
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(given)).numpy()
    np.testing.assert_allclose(outputs, expected, atol=0.03 * np.abs(expected).max())


def _losses():
    from compress.methods.distillation.objective import parse_losses

    return parse_losses(["task", "kd"])


def _one_step():
    from compress.training.schedule import Schedule

    return Schedule(epochs=1, batch_size=64, learning_rate=0.05)
