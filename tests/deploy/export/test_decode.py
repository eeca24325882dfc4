"""The decode of detectors: never integers, cut off where numpy reads the same boxes, written in where asked."""

import functools

import numpy as np
import onnx
import pytest
import torch

from compress.data import Batch, Samples
from compress.methods.quantization.post_training import PostTraining, quantize_model
from compress.pipeline.decode_graph import cut, write_in
from deploy.export.decode import last_layers
from deploy.export.to_onnx import capture, to_onnx
from deploy.onnx_graph.graph import Graph
from deploy.onnx_graph.run import onnx_session
from deploy.processing.detection.base import YOLO_ANCHORS, AskedHead, Head
from deploy.processing.detection.choose import choose, reader
from deploy.qdq.placement import place
from profiles.quantization import QUANTIZATION
from tests.deploy.processing.detection.heads import CLASSES, SIZE, Anchored, Distances, Queries, made

FACTS = Head(classes=CLASSES, size=(SIZE, SIZE))
INPUTS = np.random.default_rng(0).normal(size=(8, 3, SIZE, SIZE)).astype(np.float32)


def asked(name="auto", *, in_graph=False):
    return AskedHead(name=name, facts=FACTS, in_graph=in_graph)


@functools.cache
def exported(kind):
    """A model's file, made once: exports take seconds."""
    return to_onnx(capture(MADE[kind](), [torch.from_numpy(INPUTS[:2])]))


MADE = {
    "distributions": lambda: made(Distances),
    "distances": lambda: made(Distances, bins=1),
    "raw": lambda: made(Distances, decoded=False),
    "anchors": lambda: made(Anchored, YOLO_ANCHORS),
    "anchors of its own": lambda: made(Anchored, [[(w + 4, h) for w, h in each] for each in YOLO_ANCHORS]),
    "queries": lambda: made(Queries),
}


@pytest.fixture(scope="module")
def yolo():
    """YOLOv8's head with its decode, as a file."""
    return exported("distributions")


class Given(Samples):
    classes = ("a", "b", "c")

    def __len__(self):
        return len(INPUTS)

    def load(self, indices, augment=None):
        return Batch(INPUTS[indices], np.full((len(indices), 1, 5), -1, np.float32))

    def fingerprint(self):
        return "given"


def behind_the_last_layers(model):
    """The tensors that are computed of the last layers' results, those themselves not among them."""
    graph, found = Graph(model), set(last_layers(model))
    behind = set()
    for node in graph.nodes:
        if any(name in found | behind for name in node.input):
            behind |= set(node.output)
    return behind


OTHERS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("distances", "anchors", "queries")]
"""An export takes seconds."""


@pytest.mark.parametrize("kind", ["distributions", *OTHERS])
def test_no_tensor_of_the_decode_is_integers_under_any_recipe(kind):
    model = exported(kind)
    behind = behind_the_last_layers(model)
    assert behind
    for recipe in QUANTIZATION.values():
        placement = place(model, recipe)
        assert len(placement.weights) >= 5
        assert not behind & {each.tensor for each in placement.activations}
        reasons = [reason for _, reason in placement.kept_float]
        assert ("the mean of a distribution, part of a detector's decode" in reasons) == (kind == "distributions")


@pytest.mark.slow
def test_attention_and_a_classifier_of_one_output_are_no_distributions_means():
    class Attends(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.one = torch.nn.Linear(8, 8), torch.nn.Linear(8, 1)

        def forward(self, x):
            tokens = x.flatten(2).transpose(1, 2)
            weights = (tokens @ tokens.transpose(1, 2)).softmax(-1)
            return self.one(weights @ self.value(tokens))

    model = to_onnx(capture(Attends(), [torch.randn(2, 8, 4, 4)]))
    kept = [reason for _, reason in place(model, QUANTIZATION["x86-vnni"]).kept_float]
    assert not any("distribution" in reason for reason in kept)


@pytest.mark.parametrize("recipe", ["x86-vnni", "ort-x86-vnni", "tensorrt"])
def test_scores_and_boxes_of_one_output_keep_their_own_steps_in_int8(yolo, recipe):
    """One scale for both would be 64 / 255 at best: scores of 0, 1/4, 1/2 ... Here each stays near what it was."""
    made_int8 = quantize_model(yolo, Given(), recipe, PostTraining()).onnx()
    (plain,), (whole,) = onnx_session(yolo)(INPUTS), onnx_session(made_int8)(INPUTS)
    boxes, scores = np.abs(plain - whole)[:, :4], np.abs(plain - whole)[:, 4:]
    assert np.unique(whole[:, 4:]).size > 250, "as many as an int8 tensor has, at least"
    assert scores.mean() < 0.02 and boxes.mean() < 1.0
    assert plain[:, 4:].std() > 0.05 and plain[:, :4].std() > 5, "there was something to lose"


def test_a_file_is_cut_where_the_branches_end(yolo):
    short, note = cut(yolo, INPUTS[:2], asked())
    assert sorted(o.type.tensor_type.shape.dim[1].dim_value for o in short.graph.output) == [3, 3, 3, 64, 64, 64]
    assert note.startswith("cut before its decode, at 6 branches")
    assert {n.op_type for n in short.graph.node} == {"Conv", "Sigmoid", "Mul"}
    whole, parts = onnx_session(yolo)(INPUTS), onnx_session(short)(INPUTS)
    head = choose("auto", [each.shape for each in parts], FACTS)
    assert head == "yolo"
    one, other = reader("yolo_decoded").read(whole, FACTS), reader(head).read(parts, FACTS)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


@pytest.mark.slow
def test_anchors_that_are_the_usual_ones_are_cut_and_others_are_left():
    """A trained v5 may have anchors of its own: read with the usual ones its boxes would be wrong without a word."""
    short, note = cut(exported("anchors"), INPUTS[:2], asked())
    assert len(short.graph.output) == 3 and note.startswith("cut before its decode, at 3 branches")
    model = exported("anchors of its own")
    same, note = cut(model, INPUTS[:2], asked())
    assert same is model and note.endswith("read as head 'yolo_anchors', the last layers say other boxes")


@pytest.mark.slow
def test_what_refines_boxes_is_left_and_what_only_joins_its_branches_is_cut():
    queries = exported("queries")
    same, note = cut(queries, INPUTS[:2], asked())
    assert same is queries and "stays in the graph, in float" in note
    short, note = cut(exported("raw"), INPUTS[:2], asked())
    assert len(short.graph.output) == 6 and note.startswith("cut before its decode")


@pytest.mark.parametrize("kind", ["distributions", pytest.param("raw", marks=pytest.mark.slow)])
def test_a_decode_that_is_written_in_gives_corners_and_scores_apart(kind):
    module = MADE[kind]()
    model = write_in(exported(kind), INPUTS[:2], asked(in_graph=True))
    assert [o.name for o in model.graph.output] == ["boxes", "scores"]
    boxes, scores = onnx_session(model)(INPUTS)
    with torch.no_grad():
        outputs = module(torch.from_numpy(INPUTS))
    outputs = [each.numpy() for each in (outputs if isinstance(outputs, tuple) else (outputs,))]
    reading = reader(choose("auto", [each.shape for each in outputs], FACTS)).read(outputs, FACTS)
    np.testing.assert_allclose(boxes, reading.boxes, atol=1e-3)
    np.testing.assert_allclose(scores, reading.scores, atol=1e-5)
    for recipe in sorted(QUANTIZATION):
        placed = {each.tensor for each in place(model, QUANTIZATION[recipe]).activations}
        assert not placed & behind_the_last_layers(model)
    onnx.checker.check_model(model, full_check=True)
