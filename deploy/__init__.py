"""From module to board: export, engines, measuring, bundles. Runs on a device without PyTorch.

``python -m deploy`` is its command line there, ``deploy.load`` what an application calls. Only ``export`` imports torch,
only ``engines`` imports a runtime, and both inside functions.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from profiles.errors import UserError as UserError

if TYPE_CHECKING:
    from deploy.bundle.application import Application, CascadeApplication

# onnxruntime's official builds phone home unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def load(what: str | os.PathLike[str] = "current", *, name: str | None = None) -> Application | CascadeApplication:
    """Open the model that this device serves, or a bundle's folder, as a function from raw samples to answers.

    Args:
        what: ``"current"``, or the folder of a bundle or a cascade.
        name: of the model; where a device serves one alone it needs none.

    Raises:
        UserError: nothing is served under that name, the folder is no bundle, or its processing is unknown here.
        EngineError: the runtime refused the engine.

    Example::

        import deploy

        model = deploy.load("current")
        print(model("photo.jpg"))
    """
    from deploy.shipping.application import load as opened

    return opened(what, name=name)
