"""Compress a PyTorch model for a device: distil, prune, factorise, quantise, each step measured and gated."""

import os

__version__ = "0.1.0"

# No telemetry, ours or a dependency's: these are read when the libraries are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
