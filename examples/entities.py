"""Build a tagger on an encoder that transformers saved: the encoder's weights, and a random head of so many tags."""

from __future__ import annotations

from os.path import expandvars

from torch import nn
from transformers import AutoModelForTokenClassification

from compress.models.heads import TextLogits


def tagger(folder: str, tags: int) -> nn.Module:
    """Build the model; ``folder`` has config.json and model.safetensors, ``$`` names a variable of the environment."""
    return TextLogits(AutoModelForTokenClassification.from_pretrained(expandvars(folder), num_labels=tags))
