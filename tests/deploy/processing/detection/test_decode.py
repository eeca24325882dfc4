"""decode.json and decode.md: what a device reads a detector's outputs by, and what is refused."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from deploy.processing.detection import READERS, decode, standalone
from deploy.processing.detection.base import Head
from deploy.processing.detection.decode import Decoding, load
from profiles.errors import UserError
from tests.deploy.processing.detection.test_readers import FACTS, FORMS, NAMED, is_right
from tests.fuzz.mutations import check, generator, inputs, mutated_table

CLASSES = ("RBC", "WBC", "Platelets")


def decoding(head, facts=FACTS, thresholds=(0.3, 0.3, 0.3)):
    return Decoding(head=head, facts=facts, classes=CLASSES, thresholds=thresholds, most_overlap=0.6)


def written(folder, chosen):
    (folder / decode.FILE).write_text(json.dumps(chosen.as_json()))
    if chosen.facts.priors is not None:
        np.save(folder / decode.PRIORS, chosen.facts.priors)
    return folder


def outputs_of(head):
    return NAMED[head]() if head in NAMED and head != "yolo" else next(make for h, make in FORMS.values() if h == head)()


@pytest.mark.parametrize("head", READERS)
def test_what_is_read_back_makes_the_same_detections(head, tmp_path):
    facts = FACTS if head == "ssd" else Head(classes=3, size=(64, 64))
    found = load(written(tmp_path, decoding(head, facts)))
    assert (found.head, found.classes, found.thresholds, found.most_overlap) == (head, CLASSES, (0.3, 0.3, 0.3), 0.6)
    is_right(found.detect(outputs_of(head))[0])


def test_the_lines_of_decode_md_need_numpy_alone_and_say_the_same(tmp_path):
    """Every reader's lines, each in a folder as a bundle's, run by one Python without this product on its path."""
    script = ["import os, sys, json", "import numpy as np", "told = {}"]
    for head in READERS:
        folder = tmp_path / head
        folder.mkdir()
        text = standalone.text(head)
        (folder / "code.py").write_text(re.search(r"```python\n(.*)```", text, re.DOTALL).group(1))
        assert "deploy" not in (folder / "code.py").read_text().replace("`deploy", "")
        np.savez(written(folder, decoding(head)) / "outputs.npz", *outputs_of(head))
        script += [
            f"os.chdir({str(folder)!r}); scope = {{'__name__': {head!r}}}",
            "sys.modules[scope['__name__']] = type(sys)(scope['__name__'])",
            "exec(compile(open('code.py').read(), 'code.py', 'exec'), scope)",
            "stored = np.load('outputs.npz')",
            f"told[{head!r}] = scope['detect']([stored[n] for n in stored.files])[0].tolist()",
        ]
    command = [sys.executable, "-I", "-c", "\n".join([*script, "print(json.dumps(told))"])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) == set(READERS)
    for rows in told.values():
        is_right(np.array(rows, np.float32))


WRONG = {
    "no JSON": "{",
    "a list": "[]",
    "another schema": {"schema": 2},
    "another head": {"head": "yolov8"},
    "a module as head": {"head": "os:system"},
    "fewer thresholds": {"thresholds": [0.5]},
    "a threshold of 2": {"thresholds": [2, 0.5, 0.5]},
    "no number": {"thresholds": [float("nan"), 0.5, 0.5]},
    "no strides": {"strides": []},
    "a stride of 0": {"strides": [0, 8, 16]},
    "no size": {"size": [0, 64]},
    "anchors of three": {"anchors": [[[1, 2, 3]]]},
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_does_not_say_how_outputs_are_read_is_one_line(fault, tmp_path):
    given = WRONG[fault]
    text = given if isinstance(given, str) else json.dumps({**decoding("yolo").as_json(), **given})
    (tmp_path / decode.FILE).write_text(text)
    with pytest.raises(UserError, match="does not say how outputs are read") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_decode_and_wrong_priors_are_told(tmp_path):
    with pytest.raises(UserError, match=r"no decode.json; this is no detector's bundle"):
        load(tmp_path)
    written(tmp_path, decoding("ssd"))
    for priors in (np.zeros((3, 5)), np.full((3, 4), np.nan), np.zeros((3, 4)), np.array([["a"] * 4])):
        np.save(tmp_path / decode.PRIORS, priors)
        with pytest.raises(UserError, match="does not say how outputs are read"):
            load(tmp_path)


def test_mutated_decodes_are_read_or_one_line_and_never_make_detections_of_no_number(tmp_path):
    rnd, outputs = generator("decode"), {head: outputs_of(head) for head in READERS}

    def read(table):
        (tmp_path / decode.FILE).write_text(json.dumps(table))
        found = load(tmp_path)
        for rows in found.detect(outputs[found.head]):
            assert np.isfinite(rows).all() and (rows[:, 0] < len(found.classes)).all()

    for head in READERS:
        written(tmp_path, decoding(head))
        assert check(read, decoding(head).as_json()) == ()
        for _ in range(inputs(30)):
            check(read, mutated_table(decoding(head).as_json(), rnd))
