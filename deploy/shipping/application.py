"""``deploy.load``: the model that a device serves, or a bundle's folder, as a function of raw samples."""

from __future__ import annotations

import os
from pathlib import Path

from deploy.bundle import application
from deploy.bundle.application import Application, CascadeApplication
from deploy.engines import base as engines
from deploy.engines.served import open_served
from deploy.processing import whole
from deploy.shipping.install import engine_mismatches
from deploy.shipping.releases import Store, default_root
from profiles.errors import UserError, one_line

CURRENT = "current"


def load(what: str | os.PathLike[str] = CURRENT, *, name: str | None = None) -> Application | CascadeApplication:
    """Open what this device serves, or a bundle's or cascade's folder, as a function from raw samples to answers.

    Args:
        what: ``"current"``, or a folder.
        name: of the model; where a device serves one alone it needs none.

    Raises:
        UserError: nothing is served under that name, the folder is no bundle, or its processing is unknown here.
        EngineError: the runtime refused the engine.
    """
    if not isinstance(what, str | os.PathLike):
        raise UserError(f"deploy.load takes {CURRENT!r} or a bundle's folder; given: {one_line(repr(what), 60)}")
    if what != CURRENT:
        return application.load(Path(what))
    slot = Store(default_root()).the_slot(name)
    release = slot.current()
    if release is None:
        raise UserError(f"{slot.folder}: nothing is served; `compress ship` brings a bundle")
    if misfits := engine_mismatches(release):
        raise UserError(*[f"{slot.name}: {fact}: ship the bundle again, its engine is built anew" for fact in misfits])
    plan = engines.load_plan(release.engine)
    processing = whole.load(release.bundle)
    return Application(open_served(release.engine, plan), processing)
