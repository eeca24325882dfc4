"""What a trial tells of itself in a study, which others may write to: a record of the right kinds, or nothing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, final

from pydantic import TypeAdapter, ValidationError

from compress.report.search_record import Point

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

DAMAGED = "what it told of itself is damaged"


@final
@dataclass(frozen=True, kw_only=True)
class Told:
    """Attributes of a trial, as ``Trials`` and ``work`` set them.

    Attributes:
        gain: accuracy that the last nine tenths of training brought.
    """

    point: Point | None = None
    stages: tuple[str, ...] = ()
    share: float = 0.0
    reason: str = ""
    asked: int = 0
    made: int = 0
    seconds: float = 0.0
    recipe: str = ""
    gain: float | None = None


NAMES = tuple(each.name for each in fields(Told))
CHECK = TypeAdapter(Told)


def read_told(trial: FrozenTrial) -> Told | None:
    """Return what a trial told; None where a part of it is of another kind, or no finite number."""
    given = {name: trial.user_attrs[name] for name in NAMES if name in trial.user_attrs}
    try:
        told = CHECK.validate_python(given)
    except ValidationError:
        return None
    measured = [] if told.point is None else [value for value in asdict(told.point).values() if isinstance(value, float)]
    numbers = [told.share, told.seconds, told.gain or 0.0, *measured]
    return told if all(math.isfinite(number) for number in numbers) else None
