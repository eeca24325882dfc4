"""Detectors of libraries, where they are installed: raw outputs that are read to the library's own boxes, and its loss."""

import copy
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from compress.data.object_rows import empty_row, joined
from compress.models import library_detectors
from compress.models.factory import factory
from compress.models.library_detectors import centres_and_sizes
from deploy.processing.detection.base import Head
from deploy.processing.detection.choose import choose, reader
from deploy.processing.detection.rows import points_of
from profiles.errors import UserError
from tests.conftest import ROOT

SIZE = (96, 128)
FACTS = Head(classes=3, size=SIZE)
TARGETS = torch.tensor([[[0, 8.0, 8, 60, 60], [-1, 0, 0, 0, 0]], [[2, 30, 30, 90, 90], [1, 5, 5, 40, 50]]])


def installed(name):
    return importlib.util.find_spec(name) is not None


def test_nothing_of_a_library_is_imported_before_a_model_is_asked_for():
    source = open(library_detectors.__file__, encoding="utf-8").read()
    assert "import ultralytics" not in source and "from ultralytics" not in source
    if not installed("ultralytics"):
        with pytest.raises(UserError, match="models of ultralytics need it installed"):
            factory("ultralytics:yolo11n")


def test_centres_and_sizes_by_hand():
    assert centres_and_sizes(torch.tensor([2.0, 4, 8, 20])).tolist() == [5, 12, 6, 16]


@pytest.mark.slow
@pytest.mark.skipif(not installed("ultralytics"), reason="ultralytics is not installed")
@pytest.mark.parametrize("name", ["yolov5n", "yolov8n", "yolov10n", "yolo11n", "yolo12n", "yolo26n"])
def test_a_yolo_is_read_to_its_own_boxes_and_has_its_own_loss(name):
    torch.manual_seed(0)
    module = factory(f"ultralytics:{name}")(classes=3).eval()
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        raw = [each.numpy() for each in module(images)]
    assert choose("auto", [each.shape for each in raw], FACTS) == "yolo"
    reading = reader("yolo").read(raw, FACTS)
    head = module.model[-1]
    head.training = False
    head._end2end = False  # its two branches have other boxes; the decode of both is one
    with torch.no_grad():
        whole = module._whole[0].predict(images)[0].numpy()
    if not hasattr(head, "one2one_cv2"):
        own = reader("yolo_decoded").read([whole], FACTS)
        np.testing.assert_allclose(reading.boxes, own.boxes, atol=1e-3)
        np.testing.assert_allclose(reading.scores, own.scores, atol=1e-5)
    module.train()
    loss = module.task_loss(module(images), TARGETS)
    loss.backward()
    assert loss > 0 and all(p.grad is None or torch.isfinite(p.grad).all() for p in module.parameters())
    assert torch.isfinite(module.task_loss(module(images), torch.full((2, 1, 5), -1.0)))
    twin = copy.deepcopy(module.eval())
    with torch.no_grad():
        before = module(images)[1].clone()
        for part in twin.model.parameters():
            part.zero_()
        assert twin(images)[1].abs().max() == 0 and torch.equal(module(images)[1], before), "a copy is one of its own"


@pytest.mark.slow
@pytest.mark.skipif(not installed("ultralytics"), reason="ultralytics is not installed")
@pytest.mark.parametrize(
    "name", ["yolov8n-seg", "yolo11n-seg", "yolo26n-seg", "yolov8n-pose", "yolo11n-pose", "yolo26n-pose"]
)
def test_masks_and_keypoints_reach_the_library_s_own_loss(name):
    """Learned by heart from two pictures, the loss falls by a third; it depends on what is behind the boxes."""
    torch.manual_seed(0)
    masks = name.endswith("-seg")
    module = factory(f"ultralytics:{name}")(classes=3, **({} if masks else {"points": 5})).train()
    boxes = np.array([[0, 8, 8, 60, 60], [2, 30, 30, 90, 90]], np.float32)
    more = np.zeros((2, 4, 3) if masks else (2, 5, 3), np.float32)
    for own, (_, x1, y1, x2, y2) in zip(more, boxes, strict=True):
        around = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
        own[:, :2] = around[: len(own)]
        own[:, 2] = 0 if masks else 2
    rows = joined(boxes, more, None if masks else np.array([2000.0, 3000.0], np.float32))
    targets = torch.from_numpy(np.stack([rows, np.stack([rows[1], empty_row(rows.shape[1])])]))
    moved = targets.clone()
    points_of(moved)[..., :2] += 20
    assert not torch.equal(moved, targets)
    images = torch.rand(2, 3, *SIZE)
    optimizer = torch.optim.AdamW(module.parameters(), 0.002)
    values = []
    for _ in range(12):
        loss = module.task_loss(module(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert all(np.isfinite(values)) and values[-1] < 0.67 * values[0]
    outputs = module(images)
    one, other = (float(module.task_loss(outputs, each).detach()) for each in (targets, moved))
    assert abs(one - other) > 1e-3 * one
    assert torch.isfinite(module.task_loss(outputs, torch.from_numpy(np.tile(empty_row(rows.shape[1]), (2, 1, 1)))))
    wanted = "masks" if masks else "keypoints"
    with pytest.raises(UserError, match=f"the library's loss reads {wanted}, and the data gives boxes"):
        module.task_loss(outputs, targets[..., :5])


@pytest.mark.slow
@pytest.mark.skipif(not installed("ultralytics"), reason="ultralytics is not installed")
def test_what_the_library_prints_does_not_go_where_reports_go():
    code = "from compress.models.factory import factory; factory('ultralytics:yolo11n')(classes=3)"
    search = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    command = [sys.executable, "-c", f"import sys; sys.path += {sys.path!r}; {code}"]
    done = subprocess.run(command, env=search, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not installed("transformers"), reason="transformers is not installed")
def test_a_detector_of_transformers_gives_queries_and_its_own_loss():
    """YOLOS, the smallest that needs no further library."""
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    module = factory("transformers:yolos")(
        head="boxes", num_labels=3, image_size=list(SIZE), num_detection_tokens=10, **small
    )
    images = torch.rand(2, 3, *SIZE)
    logits, boxes = module.eval()(images)
    assert logits.shape == (2, 10, 4) and boxes.shape == (2, 10, 4)
    found = reader("detr").read([logits.detach().numpy(), boxes.detach().numpy()], FACTS)
    np.testing.assert_allclose(found.scores, logits.softmax(-1)[..., :-1].detach(), atol=1e-6)
    pytest.importorskip("scipy")
    module.train()
    loss = module.task_loss(module(images), TARGETS)
    loss.backward()
    assert torch.isfinite(loss)
