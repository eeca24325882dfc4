"""What is done to a picture, a recording or a text before the model: a part for each kind of data source.

preprocessing.json of a bundle names one by ``use`` and has its settings; nothing of a bundle is run. numpy and Pillow, and
for texts the package tokenizers. To add one: a final subclass of ``Preprocessing`` in a file here and a line in the table.
"""

from __future__ import annotations

PREPROCESSING: dict[str, str] = {
    "image": "deploy.processing.preprocessing.image:ImagePart",
    "fitted": "deploy.processing.preprocessing.fitted:Fitted",
    "figure": "deploy.processing.preprocessing.figure:Figure",
    "patch": "deploy.processing.preprocessing.patch:Patch",
    "recording": "deploy.processing.preprocessing.recording:Recording",
    "text": "deploy.processing.preprocessing.text:Text",
    "words": "deploy.processing.preprocessing.words:Words",
    "array": "deploy.processing.preprocessing.array:Array",
}

__all__ = ["PREPROCESSING"]
