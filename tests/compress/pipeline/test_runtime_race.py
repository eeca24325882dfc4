"""The race of runtimes: its result by hand, and a real one."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from compress.cli.profiles import _told
from compress.execution.progress import StreamProgress
from compress.pipeline.runtime_race import _result, race_runtimes
from compress.pipeline.target import resolve, runtime_versions
from deploy.measure.timing import Times, summarise
from profiles.errors import UserError


def facts(**ms):
    """What a race says of forms with these medians."""
    times = {form: np.full(200, value) + np.arange(200) * 1e-5 for form, value in ms.items()}
    latency = {form: asdict(summarise(Times(called=list(t), own=[]), batch=1, threads=1)) for form, t in times.items()}
    rounds = {form: [value] * 11 for form, value in ms.items()}
    return {"latency_ms": latency, "rounds_ms": rounds, "conditions": {"doubts": []}}


def test_the_fastest_runtime_and_its_lead_over_the_next_runtime():
    forms = {"onnxruntime fp32": 4.0, "onnxruntime int8": 2.0, "ncnn fp32": 3.0, "ncnn int8": 1.0, "mnn fp32": 5.0}
    raced = _result(facts(**forms), {})
    assert list(raced.remarks()) == ["ncnn", "onnxruntime", "mnn"]
    assert raced.remarks()["ncnn"].startswith("1.001 ms in int8")
    assert raced.interval == (2.0, 2.0), "of the next runtime's fastest form, not of the next form"
    assert _told(raced) == "fastest in the race: ncnn in int8, 1.001 ms, 2.00 to 2.00 times as fast as the next runtime"
    alone = _result(facts(**{"ncnn fp32": 3.0}), {("mnn", "fp32"): "no"})
    assert alone.interval is None and alone.refused == {("mnn", "fp32"): "no"}


def test_named_engines_take_the_place_of_the_profile_s():
    target = resolve("cpu", ["onnxruntime"])
    assert [runtime.engine for runtime in target.profile.runtimes] == ["onnxruntime"]
    target = resolve("cpu", ["tensorrt", "onnxruntime"])
    assert [runtime.engine for runtime in target.profile.runtimes] == ["onnxruntime"]
    assert len([line for line in target.warnings if line.startswith("tensorrt is left out: ")]) == 1
    with pytest.raises(UserError, match="--engines"):
        resolve("cpu", ["onnx"])


@pytest.mark.slow
def test_a_real_race_times_every_form_of_the_profile():
    target = resolve("cpu")
    profile = replace(target.profile, runtimes=target.profile.runtimes[:2])
    raced = race_runtimes(target.device, profile, runtime_versions(target.device), StreamProgress(), seconds=0.05)
    forms = {(r.engine, p) for r in profile.runtimes for p in r.precisions}
    assert set(raced.p50_ms) == forms and not raced.refused
    assert list(raced.p50_ms.values()) == sorted(raced.p50_ms.values())
