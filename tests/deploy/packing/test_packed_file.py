"""model.packed: decodes to the very file, says where its bytes go, and is refused when it is not as it was written."""

import contextlib
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load

from deploy.export.to_packed import pack_model
from deploy.packing.indices import fitted_points, pack, pack_indices, quantize_weight
from deploy.packing.packed_file import Int8Form, StoredWeight, read, size_breakdown, write

RNG = np.random.default_rng(0)


def packed(shape, bits=2, bucket=256, seed=0, even=False):
    weight = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return pack(weight, bits, None if even else fitted_points(weight, bits, bucket), bucket)


@settings(max_examples=20)
@given(
    bits=st.integers(1, 8),
    numbers=st.lists(st.integers(1, 2500), min_size=1, max_size=3),
    even=st.booleans(),
    gaps=st.integers(0, 5),
)
def test_what_is_written_is_read_byte_for_byte_and_its_account_is_the_file_s_size(bits, numbers, even, gaps):
    model, pieces = RNG.bytes(gaps), []
    for number in numbers:
        made = packed((number,), bits, 100, even=even, seed=number)
        pieces.append(StoredWeight(name=f"w{len(pieces)}", at=len(model), packed=made, axes=(0,)))
        model += pieces[-1].content() + RNG.bytes(gaps)
    content = write(model, pieces)
    assert read(content) == model
    found = size_breakdown(content)
    parts = found.indices + found.codes + found.points + found.scales + found.integers + found.rest + found.header
    assert parts == found.file_bytes == len(content)
    assert (found.weights, found.model_bytes) == (sum(numbers), len(model))
    fixed = sum(-(-number * bits // 8) for number in numbers)
    assert found.fixed_bytes == fixed and found.indices <= fixed and found.codes == 0, "the shorter of the two is stored"
    assert found.points == (0 if even else 4 * 2**bits * len(numbers))
    assert found.scales == 8 * sum(-(-number // 100) for number in numbers)


def test_any_reader_of_safetensors_reads_it():
    made = packed((40, 30), 2)
    piece = StoredWeight(name="w", at=1, packed=made, axes=(1, 0))
    arrays = load(write(b"x" + piece.content(), [piece]))
    np.testing.assert_array_equal(arrays["points"], made.points)
    np.testing.assert_array_equal(arrays["low"], made.low)


@pytest.mark.parametrize(("bits", "gain"), [(2, 14.22), (4, 7.53), (8, 3.88)])
def test_the_paper_s_gain_in_buckets_of_256_and_more_with_huffman(bits, gain):
    """So many bits and two floats for 256 weights; names and places take a kilobyte more at most."""
    made = packed((512, 512), bits, even=True)
    found = size_breakdown(write(made.unpack().tobytes(), [StoredWeight(name="w", at=0, packed=made, axes=(0, 1))]))
    assert found.float_bytes / (found.fixed_bytes + found.scales) == pytest.approx(gain, abs=0.01)
    assert found.factor > gain and found.header < 1000


def model(weights, integers=None):
    """An ONNX file that multiplies by a matrix, convolves, and has one more constant."""
    nodes = [helper.make_node("MatMul", ["x", "matrix"], ["y"]), helper.make_node("Add", ["y", "bias"], ["z"])]
    tensors = dict(weights)
    if integers is not None:
        nodes[0].input[1] = "matrix_dequantized"
        nodes.insert(0, helper.make_node("DequantizeLinear", ["matrix", "scale"], ["matrix_dequantized"], axis=1))
        tensors["scale"] = integers
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 30])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 40])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


BIAS = np.arange(40, dtype=np.float32)
SCALE = np.linspace(0.01, 0.03, 40).astype(np.float32)


@pytest.mark.parametrize("form", ["float32", "transposed", "float16", "int8"])
def test_weights_are_found_in_every_form_that_an_engine_s_file_has(form):
    made = packed((40, 30), 3)
    weight, scale = made.unpack(), None
    if form == "transposed":
        weight = np.ascontiguousarray(weight.T)
    elif form == "float16":
        weight = weight.astype(np.float16)
    elif form == "int8":
        scale = SCALE
        weight = quantize_weight(np.ascontiguousarray(weight.T), scale, 1, 127)
        assert np.abs(weight).max() == 127, "clipped, so that the limit counts"
    content = model({"matrix": weight, "bias": BIAS}, scale)
    found, left = pack_model(content, {"linear.weight": made})
    assert left == () and read(found) == content
    assert size_breakdown(found).weights == 1200
    assert size_breakdown(found).integers == (160 if form == "int8" else 0)
    (entry,) = json.loads(json.loads(found[8 : 8 + int.from_bytes(found[:8], "little")])["__metadata__"]["weights"])
    assert entry["axes"] == ([0, 1] if form in ("float32", "float16") else [1, 0])


def test_a_weight_that_the_file_has_otherwise_stays_in_it_and_is_named():
    made, other = packed((40, 30), 3), packed((40, 30), 3, seed=1)
    content = model({"matrix": other.unpack() + 1, "bias": BIAS})
    found, left = pack_model(content, {"a": made})
    assert left == ("a",) and read(found) == content and size_breakdown(found).weights == 0


GOOD = write(
    packed((700,), 4).unpack().tobytes() + b"rest",
    [StoredWeight(name="w", at=0, packed=packed((700,), 4), axes=(0,))],
)


def test_skewed_indices_take_their_huffman_code():
    """Shares 0.97 and thrice 0.01 have codes of 1, 2, 3 and 3 bits: 0.97 + 0.02 + 0.03 + 0.03 bits, and tables."""
    indices = np.repeat(np.array([0, 1, 2, 3], np.uint8), [97000, 1000, 1000, 1000])
    np.random.default_rng(0).shuffle(indices)
    made = replace(packed((100000,), 2), indices=pack_indices(indices, 2))
    content = write(made.unpack().tobytes(), [StoredWeight(name="w", at=0, packed=made, axes=(0,))])
    assert size_breakdown(content).indices == pytest.approx(100000 * 1.05 / 8, rel=0.02)
    assert size_breakdown(content).fixed_bytes == 25000
    assert read(content) == made.unpack().tobytes()
    with pytest.raises(ValueError, match="index 3 of 2 points"):
        read(content.replace(rb"\"bits\":2", rb"\"bits\":1"))


@pytest.mark.parametrize("place", [0, 9, 60, -1, len(GOOD) - 40, len(GOOD) - 200, int.from_bytes(GOOD[:8], "little")])
def test_a_flipped_bit_is_refused_or_decodes_to_other_bytes(place):
    """What the header cannot tell, the manifest's SHA-256 does."""
    bad = bytearray(GOOD)
    bad[place] ^= 1
    with contextlib.suppress(ValueError):
        assert read(bytes(bad)) != read(GOOD)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c[:-1], "one form|header|rest"),
        (lambda c: c + b" ", "one form"),
        (lambda c: c[:5], "ends within its header"),
        (lambda c: b"\xff" * 8 + c[8:], "ends within its header"),
        (lambda c: b"\x10" + bytes(7) + b"[" * 16, "header is not that of a packed model"),
        (lambda c: c.replace(b"packed model 2", b"packed model 1"), "model 1', and this version reads .*model 2' alone"),
        (lambda c: c.replace(rb"\"bits\":4", rb"\"bits\":3"), "of 8 points|bytes are not 700 indices"),
        (lambda c: c.replace(rb"\"bits\":4", rb"\"bits\":9"), "no weight is so"),
        (lambda c: c.replace(rb"\"bucket\":256", rb"\"bucket\":000"), "header is not"),
        (lambda c: c.replace(rb"\"bucket\":256", rb"\"bucket\":128"), "ends early"),
        (lambda c: c.replace(rb"\"shape\":[700]", rb"\"shape\":[701]"), "701"),
        (lambda c: c.replace(rb"\"at\":0", rb"\"at\":9"), "outside it"),
        (lambda c: c.replace(rb'"size":"2804"', rb'"size":"2803"'), "the rest is not 3 bytes"),
        (lambda c: c.replace(rb'"size":"2804"', rb'"size":"1804"'), "larger than the file"),
    ],
)
def test_what_is_no_packed_model_is_refused_with_the_reason(change, words):
    assert change(GOOD) != GOOD
    with pytest.raises(ValueError, match=words):
        read(change(GOOD))


def test_pieces_that_overlap_or_are_not_there_are_not_written():
    made = packed((300,), 4)
    content = made.unpack().tobytes()
    piece = StoredWeight(name="w", at=0, packed=made, axes=(0,))
    with pytest.raises(ValueError, match="overlap"):
        write(content, [piece, piece])
    with pytest.raises(ValueError, match="not at byte 0"):
        write(bytes(1200), [piece])


def test_equal_content_gives_equal_bytes():
    made = packed((300,), 4)
    both = [write(made.unpack().tobytes(), [StoredWeight(name="w", at=0, packed=made, axes=(0,))]) for _ in range(2)]
    assert both[0] == both[1]


def test_scales_are_stored_once():
    made = packed((40, 30), 3)
    integers = Int8Form(scale=SCALE, scale_at=1200, axis=0, limit=127)
    piece = StoredWeight(name="w", at=0, packed=made, axes=(0, 1), form="int8", integers=integers)
    content = piece.content() + SCALE.tobytes()
    assert read(write(content, [piece])) == content
    assert size_breakdown(write(content, [piece])).rest < 20
    onnx.checker.check_model(onnx.load_model_from_string(model({"matrix": made.unpack().T.copy(), "bias": BIAS})))
