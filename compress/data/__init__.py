"""Data sources by name.

To add a source: a function here that returns ``Splits``, and a line in ``DATA``; or name your own in the recipe
as ``module:callable``.
"""

from __future__ import annotations

from compress.data.base import Batch, Samples, Splits

DATA: dict[str, str] = {
    "audio": "compress.data.audio:audio",
    "cifar10": "compress.data.cifar:cifar10",
    "cifar100": "compress.data.cifar:cifar100",
    "coco": "compress.data.coco:coco",
    "coco_keypoints": "compress.data.coco_keypoints:coco_keypoints",
    "coco_masks": "compress.data.coco_masks:coco_masks",
    "conll": "compress.data.text:conll",
    "digits": "compress.data.digits:digits",
    "huggingface": "compress.data.huggingface:huggingface",
    "images": "compress.data.images:images",
    "masks": "compress.data.masks:masks",
    "npz": "compress.data.npz:npz",
    "pairs": "compress.data.pairs:pairs",
    "sentence_pairs": "compress.data.text:sentence_pairs",
    "text": "compress.data.text:text",
    "voc": "compress.data.voc:voc",
    "webdataset": "compress.data.webdataset:webdataset",
    "yolo": "compress.data.yolo:yolo",
}

__all__ = ["DATA", "Batch", "Samples", "Splits"]
