"""The latency table: the template by hand-countable facts, the sum by a stopwatch that counts instead of timing."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.latency import measure_table
from deploy.latency.measure_table import count_table, width_options
from deploy.latency.stopwatch import Time
from deploy.latency.table import PieceCost, sum_pieces
from deploy.latency.template import Axis, Piece, Template
from deploy.onnx_graph import count

WIDTH = 16


def residual(blocks=3):
    """A stem, residual blocks with one inner group each, a pooled linear classifier; nodes called as our export does."""
    random, nodes, weights = np.random.default_rng(0), [], []

    def weight(name, *shape):
        weights.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
        return name

    def conv(module, given, made, inputs, outputs):
        kernel = weight(f"{module}.weight", outputs, inputs, 3, 3)
        nodes.append(helper.make_node("Conv", [given, kernel], [made], name=f"{module}/Conv:{made}", pads=[1] * 4))

    def plain(kind, module, given, made):
        nodes.append(helper.make_node(kind, given, [made], name=f"{module}/{kind}:{made}"))

    conv("stem", "input", "s", 3, WIDTH)
    plain("Relu", "", ["s"], "x0")
    for number in range(blocks):
        at = f"block.{number}"
        conv(f"{at}.one", f"x{number}", f"a{number}", WIDTH, WIDTH)
        plain("Relu", at, [f"a{number}"], f"b{number}")
        conv(f"{at}.two", f"b{number}", f"c{number}", WIDTH, WIDTH)
        plain("Add", at, [f"c{number}", f"x{number}"], f"d{number}")
        plain("Relu", at, [f"d{number}"], f"x{number + 1}")
    plain("GlobalAveragePool", "pool", [f"x{blocks}"], "p")
    weights.append(numpy_helper.from_array(np.array([-1, WIDTH]), "flat"))
    plain("Reshape", "", ["p", "flat"], "f")
    nodes.append(
        helper.make_node("Gemm", ["f", weight("linear.weight", 10, WIDTH)], ["output"], name="linear/Gemm", transB=1)
    )
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])
    made = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, "net", [given], [made], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def axes(blocks=3):
    inner = {
        f"block.{n}.one": Axis(width=WIDTH, sizes={f"block.{n}.one.weight": {0: 1}, f"block.{n}.two.weight": {1: 1}})
        for n in range(blocks)
    }
    stream = {"stem.weight": {0: 1}, "linear.weight": {1: 1}}
    for number in range(blocks):
        stream |= {f"block.{number}.one.weight": {1: 1}, f"block.{number}.two.weight": {0: 1}}
    return {**inner, "stem": Axis(width=WIDTH, sizes=stream)}


@pytest.fixture
def template():
    return Template(residual(), axes(), [f"block.{n}" for n in range(3)])


def test_pieces_end_where_one_tensor_is_alive_behind_what_is_fused(template):
    kinds = [[template.nodes[i].op_type for i in piece.nodes] for piece in template.pieces]
    block = ["Conv", "Relu", "Conv", "Add", "Relu"]
    assert kinds == [["Conv", "Relu"], block, block, block, ["GlobalAveragePool", "Reshape", "Gemm"]]
    assert [piece.block for piece in template.pieces] == [None, "block.0", "block.1", "block.2", None]
    assert template.pieces[2].axes == ("stem", "block.1.one")


def test_equal_pieces_are_measured_once(template):
    first, second = template.pieces[1:3]
    at = {"stem": 8, "block.0.one": 16, "block.1.one": 16}
    names = [template.signature(p.nodes, {a: at[a] for a in p.axes}) for p in (first, second)]
    assert names[0] == names[1]
    assert names[0] != template.signature(first.nodes, {"stem": 8, "block.0.one": 8})


@pytest.mark.parametrize("removed", [[], ["block.0"], ["block.0", "block.1", "block.2"]])
def test_a_whole_model_runs_at_any_widths(template, removed):
    widths = {"stem": 8, "block.0.one": 4, "block.1.one": 16, "block.2.one": 1}
    model = template.whole(widths, removed)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {session.get_inputs()[0].name: np.ones((1, 3, 8, 8), np.float32)})
    assert made.shape == (1, 10)
    inner = {"block.0": 4, "block.1": 16, "block.2": 1}
    by_hand = 64 * 9 * (3 * 8 + sum(2 * 8 * w for b, w in inner.items() if b not in removed)) + 8 * 10
    assert count.count_macs(model) == by_hand


def test_copies_stand_one_behind_the_other(template):
    piece = template.pieces[1]
    assert template.chainable(piece.nodes, {"stem": 8})
    assert not template.chainable(template.pieces[0].nodes, {})
    once, thrice = (template.model(piece.nodes, {"stem": 8}, copies) for copies in (1, 3))
    onnx.checker.check_model(thrice, full_check=True)
    assert len(thrice.graph.output) == 1 and count.count_macs(thrice) == 3 * count.count_macs(once)


def test_an_axis_whose_width_is_written_into_the_graph_is_named():
    model = residual(1)
    model.graph.node.insert(2, helper.make_node("Slice", ["x0", "low", "high", "axis"], ["half"], name="split/Slice"))
    model.graph.node.insert(3, helper.make_node("Concat", ["half", "half"], ["twice"], axis=1, name="split/Concat"))
    for name, value in (("low", 0), ("high", WIDTH // 2), ("axis", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    for node in model.graph.node[4:]:
        node.input[:] = ["twice" if t == "x0" else t for t in node.input]
    found = Template(model, axes(1), ["block.0"])
    assert "stem" in found.unfollowed and "block.0.one" in found.axes


def test_a_map_that_is_enlarged_keeps_its_scale():
    """As the necks of detectors do: twice the size, beside a map of that size; 8 x 8 stays 8 x 8 at any width."""
    shapes = {"wide.weight": (WIDTH, 3, 1, 1), "fine.weight": (WIDTH, 3, 1, 1), "head.weight": (4, 2 * WIDTH, 1, 1)}
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()]
    weights.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    nodes = [
        helper.make_node("Conv", ["input", "wide.weight"], ["w"], name="wide/Conv", strides=[2, 2]),
        helper.make_node("Resize", ["w", "", "scales"], ["u"], name="up/Resize"),
        helper.make_node("Conv", ["input", "fine.weight"], ["n"], name="fine/Conv"),
        helper.make_node("Concat", ["u", "n"], ["c"], name="/Concat", axis=1),
        helper.make_node("Conv", ["c", "head.weight"], ["output"], name="head/Conv"),
    ]
    given, made = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", c, 8, 8]) for n, c in (("input", 3), ("output", 4))
    )
    graph = helper.make_graph(nodes, "net", [given], [made], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    axes_ = {"wide": Axis(width=WIDTH, sizes={"wide.weight": {0: 1}, "head.weight": {1: 1}})}
    found = Template(model, axes_)
    assert found.shape("u", {"wide": 8}) == (1, 8, 8, 8) and not found.unfollowed
    whole = found.whole({"wide": 8})
    run = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = run.run(None, {run.get_inputs()[0].name: np.ones((1, 3, 8, 8), np.float32)})
    assert output.shape == (1, 4, 8, 8)


def test_counts_are_exact_at_every_width(template):
    pieces = count_table(template, count.count_macs)
    random = np.random.default_rng(0)
    for _ in range(5):
        widths, removed = measure_table.random_pruning(template, 1, random)
        assert sum_pieces(pieces, widths, removed) == pytest.approx(count.count_macs(template.whole(widths, removed)))


def test_between_grid_points_it_is_linear():
    piece = PieceCost(axes=("a", "b"), grid=((8, 16), (8, 24)), cost=np.array([[1.0, 3.0], [2.0, 6.0]]))
    assert piece.at([8, 8]) == 1 and piece.at([16, 24]) == 6
    assert piece.at([12, 8]) == 1.5 and piece.at([12, 16]) == 3.0


def test_a_rim_gives_the_inside_where_one_width_scales_what_the_other_does():
    """cost = 1 + a p(b) with a p that goes up and down, as blocks of output channels do: by hand, at every point."""
    grid, p = ((8, 16, 24, 32), (8, 16, 24, 32, 40)), np.array([1.0, 2.0, 2.5, 4.0, 4.5])
    values = 1 + np.outer(grid[0], p)
    asked = []

    def cost(widths):
        asked.append((widths["a"], widths["b"]))
        return float(values[grid[0].index(widths["a"]), grid[1].index(widths["b"])])

    piece = Piece(nodes=(), axes=("a", "b"), block=None, layers=())
    np.testing.assert_allclose(measure_table._filled(piece, grid, cost).cost, values)
    assert len(asked) == 4 * 5 - 2 * 3 and (16, 24) not in asked


def test_multiples():
    assert width_options(20, 8) == (8, 16, 20)
    assert width_options(5, 8) == (5,)


def test_maps_that_come_out_are_averaged_and_vectors_are_not(template):
    shapes = []
    for piece in template.pieces[1], template.pieces[-1]:
        (made,) = template.model(piece.nodes, {"stem": 8}, averaged=True).graph.output
        shapes.append([d.dim_value for d in made.type.tensor_type.shape.dim])
    assert shapes == [[1, 8, 1, 1], [1, 10]]


class Counting:
    """A stopwatch whose milliseconds are known: 1e-6 a multiply-accumulate, 0.01 a call and 1e-7 an element in or out.

    ``handed_ms``: of a square of the elements out, as where a cache is too small for them.
    """

    def __init__(self, handed_ms=0.0):
        self._handed_ms = handed_ms

    def times(self, models, passes=1):
        return {name: self._time(make()) for name, make in models.items()}

    def _time(self, model):
        graph = model.graph
        sizes = [np.prod([d.dim_value for d in v.type.tensor_type.shape.dim]) for v in (*graph.input, *graph.output)]
        ms = 1e-6 * count.count_macs(model) + 0.01 + 1e-7 * float(sum(sizes)) + self._handed_ms * float(sizes[-1]) ** 2
        return Time(least_ms=ms, p50_ms=1.2 * ms)


@pytest.mark.parametrize("handed_ms", [0.0, 1e-6])
def test_the_table_finds_what_a_known_clock_says(template, handed_ms):
    """The call's own time is taken off each piece and comes back once, as the offset; medians are 1.2 times the least.

    What it takes to hand a piece's map over, a second for the widest, is no layer's time.
    """
    clock = Counting(handed_ms)
    table = measure_table.measure_table(template, clock, 4)
    random = np.random.default_rng(7)
    for _ in range(10):
        widths, removed = measure_table.random_pruning(template, 4, random)
        expected = clock._time(template.whole(widths, removed)).p50_ms
        assert table.predict_ms(widths, removed) == pytest.approx(expected, rel=0.02)
    assert table.error < 0.02 and table.factor == pytest.approx(1.2, rel=0.02)


def test_noise_makes_no_width_look_cheap():
    """0.99 after 1.00 is noise: both become 0.995. 1.2 after 1.6 is the runtime's other kernel, and stays."""
    found = measure_table._rising(np.array([0.5, 1.0, 0.99, 1.6, 1.2, 1.9]))
    np.testing.assert_allclose(found, [0.5, 0.995, 0.995, 1.6, 1.2, 1.9])
    rising = np.array([[1.0, 2.0], [2.0, 4.0]])
    assert np.array_equal(measure_table._rising(rising), rising)
