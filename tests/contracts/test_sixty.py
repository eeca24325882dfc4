"""The runner of the sixty architectures: its limits, what it keeps of a step, and what its page says of that."""

import copy
import subprocess
import sys

import pytest

from profiles.errors import UserError
from tests.conftest import ROOT
from tests.zoo import document, records
from tests.zoo.chain import Chain
from tests.zoo.networks import NETWORKS

DONE = {
    "load": {"parameters": 4_000_000},
    "export": {"nodes": 9},
    "onnxruntime": {"cosine": 0.9999999},
    "openvino": {"cosine": 0.999995},
    "prune": {"share": 0.38},
    "low_rank": {"chosen": 3},
    "int8": {"layers": 5, "cosine": 0.9998},
    "replay": {"equal": True},
}


def record(**changed):
    steps = {name: {"state": "done", "processor_s": 2.5, "wall_s": 10.0, **found} for name, found in DONE.items()}
    for name, found in changed.items():
        steps[name] = {"processor_s": 2.5, "wall_s": 10.0, **found}
    return {"network": "ResNet-18", "steps": steps, "code": "", "versions": {"torch": "2.14.1"}, "beside": {"share": 0.4}}


def row(one):
    return next(line for line in document.page({"ResNet-18": one}).splitlines() if line.startswith("| ResNet-18"))


def test_there_are_sixty_and_each_has_a_record_of_its_own():
    assert len(NETWORKS) >= 60
    assert len({records.path_of(name).name.lower() for name in NETWORKS}) == len(NETWORKS)


def test_a_row_says_what_was_found():
    shown = row(record())
    assert (
        "4.00 M | 0.9999999 | 0.9999950 | 38.0% | 40.0% | 3 layers | 5 layers, 0.99980 | bit-equal | 20 (80) | older"
        in shown
    )


@pytest.mark.parametrize(
    ("step", "found", "shown"),
    [
        ("int8", {"state": "traceback", "reason": "KeyError: 'x'"}, "**fails**"),
        ("openvino", {"state": "done", "cosine": 0.99998}, "**0.9999800**"),
        ("openvino", {"state": "refused", "reason": "openvino refuses the model"}, "refused"),
        ("replay", {"state": "done", "equal": False}, "**differs**"),
        ("prune", {"state": "done", "share": 0.37}, "**37.0%**"),  # 0.95 of 40 % are 38 %
        ("low_rank", {"state": "late", "reason": "not done"}, "not in time"),
    ],
)
def test_what_falls_short_is_seen(step, found, shown):
    assert shown in row(record(**{step: found}))
    assert shown not in row(record())
    if "reason" in found:
        assert f"- ResNet-18, {step}: {found['reason']}" in document.page({"ResNet-18": record(**{step: found})})


def test_without_the_other_tool_a_fifth_is_asked():
    alone = {**record(prune={"state": "done", "share": 0.19}), "beside": {"error": "KeyError"}}
    assert document.enough(alone) is False
    more = copy.deepcopy(alone)
    more["steps"]["prune"]["share"] = 0.2
    assert document.enough(more) is True


def test_a_step_that_is_missing_or_fails_is_not_complete():
    assert document.complete(record(openvino={"state": "refused", "reason": "no"}))
    assert not document.complete(record(int8={"state": "traceback", "reason": "KeyError"}))
    broken = record()
    del broken["steps"]["replay"]
    assert not document.complete(broken)


def test_a_reason_is_told_from_a_fault():
    kept = []
    chain = Chain("DS-CNN", lambda found: kept.append(copy.deepcopy(found["steps"])))

    def refused():
        raise UserError("it cannot be", "for two reasons")

    def faulty():
        raise KeyError("of ours")

    assert chain._step("a", lambda: {"share": 0.5})
    assert not chain._step("b", refused)
    assert not chain._step("c", faulty)
    assert [kept[-1][name]["state"] for name in "abc"] == ["done", "refused", "traceback"]
    assert kept[-1]["b"]["reason"] == "it cannot be; for two reasons"
    assert kept[-1]["c"]["frames"][-1].startswith("test_sixty.py")
    assert len(kept) == 3  # as soon as each ends


BUSY = """
from tests.zoo import limits
limits.limit(1)
try:
    while True:
        pass
except limits.OutOfTimeError as error:
    print(error)
"""


def test_a_process_ends_after_its_processor_time():
    done = subprocess.run([sys.executable, "-c", BUSY], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "not done after 1 s of processor time\n", done.stderr
