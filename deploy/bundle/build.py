"""The engines of a bundle, built here: one of each size, and how samples reach them beside them."""

from __future__ import annotations

from pathlib import Path

from deploy.bundle.manifest import Manifest
from deploy.bundle.model_file import model_file
from deploy.engines import BuildPlan, engine, serving
from deploy.engines.serving import Serving
from profiles.errors import UserError


def build_engines(bundle: Path, contents: Manifest, plan: BuildPlan, folder: Path, scratch: Path | None = None) -> None:
    """Build the engines of a bundle into the empty ``folder``, smaller sizes below it.

    Args:
        scratch: where a packed model is decoded.

    Raises:
        UserError: a file of the bundle is damaged.
        EngineError: the runtime refused the model.
    """
    runtime, served = engine(plan.engine), serving_of(bundle)
    with model_file(bundle, contents, plan, scratch) as model:
        runtime.build(model, plan, folder)
    for size in served.sizes.sizes[:-1] if served.sizes else ():
        below = folder / serving.part(size)
        below.mkdir()
        runtime.build(bundle / serving.part(size) / plan.model_file, plan, below)
    serving.save(folder, served)


def serving_of(bundle: Path) -> Serving:
    """Read how samples reach the engines of a bundle.

    Raises:
        UserError: its serving.json is damaged.
    """
    try:
        return serving.load(bundle)
    except ValueError as error:
        raise UserError(f"{bundle}: {error}; get the bundle again") from None
