"""A worker as the pipeline uses it: a real process, real engines."""

import os
import signal

import numpy as np
import onnx
import psutil
import pytest
import torch

from deploy.devices import device
from deploy.engines import EngineError, engine, engines
from deploy.export.to_onnx import capture, to_onnx
from deploy.onnx_graph.model_bytes import model_bytes
from deploy.worker.client import RemoteWorker
from deploy.worker.whole_path import race_paths
from profiles.device import load
from profiles.errors import UserError
from tests.conftest import small_model, wait_until
from tests.deploy.bundles import picture_bundle


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(to_onnx(capture(small_model(), [torch.randn(2, 1, 16, 16)])), path)
    return path


def plan(name, precision="fp32"):
    return engine(name).plan(load("cpu"), precision, engine(name).affinity().version)


@pytest.mark.parametrize("name", sorted(engines()))
def test_build_open_infer_time(name, model, tmp_path):
    able = engine(name).affinity()
    if able.score < 0:
        pytest.skip(able.reason)
    if plan(name).format.made_from != "onnx":
        pytest.skip(f"{name} is not built from ONNX")
    given = tmp_path / plan(name).model_file
    given.write_bytes(model_bytes(onnx.load(model), plan(name)))
    inputs = np.random.default_rng(0).normal(size=(5, 1, 16, 16)).astype(np.float32)
    with RemoteWorker(device("local")) as worker:
        built = worker.build(given, plan(name), tmp_path / "engine")
        assert built["size_bytes"] == pytest.approx(model.stat().st_size, rel=0.3)
        opened = worker.open(tmp_path / "engine")
        assert opened["inputs"][0]["shape"] == [1, 1, 16, 16]
        outputs = worker.infer({"input": inputs})
        worker.warm({"input": inputs})
        assert len(worker.time(0.01)) >= 11
        least_ms, p50_ms, passes_ms = worker.time_models([given, given], plan(name), seconds=0.01, passes=2)
        assert len(p50_ms) == 2 and all(0 < least <= p50 for least, p50 in zip(least_ms, p50_ms, strict=True))
        assert [len(each) for each in passes_ms] == [2, 2]
        assert all(min(each) >= least for each, least in zip(passes_ms, least_ms, strict=True))
    with torch.no_grad():
        expected = small_model().eval()(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(outputs["output"], expected, atol=1e-3)


def test_facts_tell_what_can_run():
    with RemoteWorker(device("local")) as worker:
        facts = worker.facts()
    assert facts["device"]["cores"] >= 1
    assert facts["engines"]["onnxruntime"]["score"] >= 0


def test_a_model_that_the_runtime_refuses(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with RemoteWorker(device("local")) as worker, pytest.raises(EngineError, match="refused the model"):
        worker.build(tmp_path / "broken.onnx", plan("onnxruntime"), tmp_path / "engine")


def test_a_feed_of_the_wrong_shape_names_both_shapes(model, tmp_path):
    with RemoteWorker(device("local")) as worker:
        worker.build(model, plan("onnxruntime"), tmp_path / "engine")
        worker.open(tmp_path / "engine")
        with pytest.raises(RuntimeError, match=r"\(1, 1, 8, 8\); the engine takes \(1, 1, 16, 16\)"):
            worker.infer({"input": np.zeros((1, 1, 8, 8), np.float32)})


def test_a_worker_that_dies_is_an_engine_error_and_nothing_hangs(model, tmp_path):
    with RemoteWorker(device("local")) as worker:
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="died in 'facts'"):
            worker.facts()


def test_nothing_opened_is_said():
    with RemoteWorker(device("local")) as worker, pytest.raises(UserError, match="no engine is open"):
        worker.time(0.1)


def test_no_process_is_left_behind():
    with RemoteWorker(device("local")) as worker:
        worker.facts()
        pid = worker.process.pid
    wait_until(lambda: not psutil.pid_exists(pid), "the end of the worker")


def test_the_whole_path_is_timed_by_the_worker_from_raw_samples(tmp_path):
    folder, _ = picture_bundle(tmp_path / "b")
    with RemoteWorker(device("local")) as worker:
        worker.build(folder / "model.onnx", plan("onnxruntime"), tmp_path / "engine")
        worker.open(tmp_path / "engine")
        with pytest.raises(UserError, match="no processing is described"):
            worker.time_path(0)
        worker.describe(folder)
        rows = worker.time_path(0.01)
        times = race_paths({"small": worker}, 0.02)["small"].summary()
    assert len(rows) >= 11 and all(min(row) > 0 and row[3] == pytest.approx(sum(row[:3])) for row in rows)
    assert (
        times.samples >= 121 and times.total.p50 > times.engine.p50 > 0 and times.pre.low <= times.pre.p50 <= times.pre.high
    )


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("preprocessing.json", b'{"use": "os.system"}', "asks for 'os.system'"),
        ("preprocessing.json", b"[" * 100000, "cannot be read"),
        ("postprocessing.json", b'{"use": "tags", "classes": ["a"]}', "cannot be timed: the model gives"),
        ("raw.npz", b"PK", "raw.npz"),
    ],
)
def test_a_processing_that_will_not_do_is_told_in_a_line(file, content, words, tmp_path):
    folder, _ = picture_bundle(tmp_path / "b")
    (folder / file).write_bytes(content)
    with RemoteWorker(device("local")) as worker:
        worker.build(folder / "model.onnx", plan("onnxruntime"), tmp_path / "engine")
        worker.open(tmp_path / "engine")
        with pytest.raises(UserError, match=words) as told:  # noqa: PT012  # either may be the one that tells
            worker.describe(folder)
            worker.time_path(0)
    assert len(told.value.faults) == 1
