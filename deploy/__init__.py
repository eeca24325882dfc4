"""From module to board: export, engines, measuring, bundles. Runs on a device without PyTorch.

``python -m deploy`` is its command line there. Only ``export`` imports torch, only ``engines`` imports a runtime, and both
inside functions.
"""

import os

# onnxruntime's official builds phone home unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
