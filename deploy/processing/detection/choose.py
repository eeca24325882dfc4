"""Which reader fits a model's outputs: by name, or by their shapes."""

from __future__ import annotations

from deploy.processing.detection import READERS
from deploy.processing.detection.base import Head, Reader, Shapes
from profiles.errors import UserError
from profiles.tables import look_up, with_entry_points

AUTO = "auto"


def readers() -> dict[str, str]:
    """Return the table of readers, with those that installed packages add."""
    return with_entry_points(READERS, "edge_compress.readers")


def reader(name: str) -> Reader:
    """Return the reader of that name.

    Raises:
        UserError: there is none.
    """
    made: Reader = look_up("head", name, readers())()
    return made


def choose(name: str, shapes: Shapes, head: Head) -> str:
    """Return the name of the reader of outputs of these shapes: ``name``, or for ``auto`` the table's first that can.

    Raises:
        UserError: none can, or the one that is named cannot; says what each would read.
    """
    given = ", ".join(str(tuple(shape)) for shape in shapes) or "no array"
    if name != AUTO:
        if fault := reader(name).fault(shapes, head):
            raise UserError(f"outputs {given}: head {name!r} reads {fault}")
        return name
    faults = {each: reader(each).fault(shapes, head) for each in readers() if not reader(each).named_only}
    fitting = [each for each, fault in faults.items() if not fault]
    if not fitting:
        known = "; ".join(f"{each}: {fault}" for each, fault in faults.items())
        about = f"{head.classes} classes, inputs of {head.size}" if head.classes else "an unknown number of classes"
        raise UserError(f"outputs {given}: no head with {about} reads these. {known}")
    return fitting[0]


def describe(name: str, shapes: Shapes, head: Head) -> str:
    """Say in one line which reader was chosen, and which others of the table read the same shapes."""
    others = [each for each in readers() if each != name and not reader(each).fault(shapes, head)]
    also = f"; {', '.join(others)} would read these shapes too: name the head if it is another" if others else ""
    return f"outputs are read as head {name!r} ({reader(name).gives}){also}"
