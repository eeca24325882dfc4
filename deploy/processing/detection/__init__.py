"""Detectors' raw outputs to detections: readers by the shape of what a model gives, suppression, thresholds. numpy alone.

To add a reader: a final subclass of ``Reader`` in a file here and a line in ``READERS``. ``auto`` takes the first of the
table that reads the shapes; those whose shapes say too little (distances without distributions, of as many channels as
our own) are named in a recipe.
"""

from __future__ import annotations

READERS: dict[str, str] = {
    "own": "deploy.processing.detection.own:Own",
    "yolo": "deploy.processing.detection.yolo:Yolo",
    "yolo_anchors": "deploy.processing.detection.yolo_anchors:YoloAnchors",
    "yolox": "deploy.processing.detection.yolox:Yolox",
    "yolo_decoded": "deploy.processing.detection.yolo_decoded:YoloDecoded",
    "end_to_end": "deploy.processing.detection.end_to_end:EndToEnd",
    "ssd": "deploy.processing.detection.ssd:Ssd",
    "detr": "deploy.processing.detection.detr:Detr",
    "rfdetr": "deploy.processing.detection.rfdetr:RfDetr",
    "corners": "deploy.processing.detection.corners:Corners",
}

__all__ = ["READERS"]
