"""What is made of a model's outputs: an answer, by a part for each task.

postprocessing.json of a bundle names one by ``use`` and has the classes' names; nothing of a bundle is run. numpy alone. To
add one: a final subclass of ``Postprocessing`` in a file here and a line in ``POSTPROCESSING``.
"""

from __future__ import annotations

POSTPROCESSING: dict[str, str] = {
    "classes": "deploy.processing.postprocessing.classes:Classes",
    "tags": "deploy.processing.postprocessing.tags:Tags",
    "boxes": "deploy.processing.postprocessing.boxes:Boxes",
    "mask": "deploy.processing.postprocessing.mask:Mask",
    "points": "deploy.processing.postprocessing.points:Points",
    "picture": "deploy.processing.postprocessing.picture:Picture",
    "values": "deploy.processing.postprocessing.values:Values",
    "entities": "deploy.processing.postprocessing.entities:Entities",
    "embedding": "deploy.processing.postprocessing.embedding:Embedding",
    "outputs": "deploy.processing.postprocessing.outputs:Outputs",
}

__all__ = ["POSTPROCESSING"]
