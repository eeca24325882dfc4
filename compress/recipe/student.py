"""[student] of a recipe: the teacher's factory with other arguments, one of its own, or a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, final

from annotated_types import Ge, Gt, Len

from compress.models.hub.records import check_names
from compress.models.plan import Plan
from compress.recipe.fields import build
from profiles.toml import shown


@final
@dataclass(frozen=True, kw_only=True)
class StudentSearch:
    """Search of the student's arguments: without training, by a score and by measured latency.

    Attributes:
        choices: for each argument of the factory, the values that it may take.
        speed_up: over the teacher in fp32, at least.
        latency_ms: at most.
        population, generations: candidates in each round of the evolution, and rounds.
        draws: of random weights that a score is averaged over.
        samples: in the batch that it is computed on.
    """

    choices: Annotated[Mapping[str, Annotated[tuple[Any, ...], Len(1)]], Len(1)]
    speed_up: Annotated[float, Gt(0)] | None = None
    latency_ms: Annotated[float, Gt(0)] | None = None
    population: Annotated[int, Ge(2)] = 16
    generations: Annotated[int, Ge(1)] = 8
    draws: Annotated[int, Ge(1)] = 3
    samples: Annotated[int, Ge(2)] = 64


Scale = Annotated[int | float, Gt(0)]


@final
@dataclass(frozen=True, kw_only=True)
class StudentTable:
    """[student] as it is written: either ``from = "teacher"`` or a ``model``.

    Attributes:
        from_: ``teacher``: its factory, with what is given here in place of its arguments.
        model: a factory of the student's own, as ``package.module:callable``.
        width, depth: arguments of that name.
        arguments: of the factory.
        inherit: whether it starts from the teacher's weights as far as they fit; true without a model of its own.
        search: chooses arguments before the first stage.
        pretrained, revision: as of [teacher].
    """

    from_: Literal["teacher"] | None = None
    model: str | None = None
    width: Scale | tuple[Scale, ...] | None = None
    depth: Scale | tuple[Scale, ...] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    inherit: bool | None = None
    search: StudentSearch | None = None
    pretrained: bool = False
    revision: str = ""


@final
@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """Student before the first stage: a factory of its own, or the teacher's with other arguments.

    Attributes:
        inherits: whether it starts from the teacher's weights as far as they fit.
        between: arguments of a model of the student's depth and the teacher's width.
        search: chooses arguments before the first stage.
        pretrained, revision: as of [teacher].
    """

    model: str
    arguments: Mapping[str, Any]
    same_as_teacher: bool
    inherits: bool
    between: Mapping[str, Any] | None = None
    search: StudentSearch | None = None
    pretrained: bool = False
    revision: str = ""

    @property
    def is_published(self) -> bool:
        """Say whether it brings published weights."""
        return self.pretrained or bool(self.revision)


def parse_student(
    table: Mapping[str, Any],
    teacher: tuple[str, Mapping[str, Any]] | None,
    resolve: Callable[[str], str],
    source: str,
    faults: list[str],
) -> StudentSpec | None:
    """Parse the student of a table; its faults are added to ``faults``.

    Args:
        teacher: its model and arguments; None when it has faults itself.
        resolve: makes a reference to a model absolute.
    """
    where = f"{source}: [student]"
    if ("from" in table) == ("model" in table):
        faults.append(f'{where} takes either from = "teacher" or model = "package.module:callable"')
        return None
    if "from" in table and table["from"] != "teacher":
        faults.append(f'{where} from: the student starts from "teacher"; given: {shown(table["from"])}')
        return None
    written = build(StudentTable, {key: value for key, value in table.items() if key != "search"}, where, faults)
    if teacher is None or written is None:
        return None
    scaled = {key: table[key] for key in ("width", "depth") if key in table}
    own = {**table.get("arguments", {}), **scaled}
    searched = _search(table["search"], own, where, faults) if "search" in table else None
    pretrained, revision = bool(table.get("pretrained", False)), str(table.get("revision", ""))
    if pretrained or revision:
        others = [key for key in ("from", "inherit", "search") if table.get(key)]
        faults += [f"{where}: published weights go with model = of its own, and not with {key}" for key in others]
    if "model" in table:
        faults += check_names(table["model"], pretrained=pretrained, revision=revision, weights=False, where=where)
        return StudentSpec(
            model=resolve(table["model"]),
            arguments=own,
            same_as_teacher=False,
            inherits=bool(table.get("inherit", False)),
            search=searched,
            pretrained=pretrained,
            revision=revision,
        )
    arguments = {**teacher[1], **own}
    return StudentSpec(
        model=teacher[0],
        arguments=arguments,
        same_as_teacher=not own and searched is None,
        inherits=bool(table.get("inherit", True)),
        between={key: value for key, value in arguments.items() if key != "width"} if "width" in own else None,
        search=searched,
    )


def _search(table: Any, arguments: Mapping[str, Any], where: str, faults: list[str]) -> StudentSearch | None:
    place = where.removesuffix("]") + ".search]"
    if not isinstance(table, dict):
        faults.append(f"{place} is a table with choices; given: {shown(table)}")
        return None
    choices = table.get("choices", {})
    if not isinstance(choices, dict) or not choices or not all(isinstance(v, list) and v for v in choices.values()):
        faults.append(
            f"{place} choices: a list of values for each argument, such as blocks = [1, 2, 3]; given: {shown(choices)}"
        )
        return None
    faults += [f"{place} choices: {name} is in arguments too; keep one" for name in choices if name in arguments]
    search: StudentSearch | None = build(StudentSearch, table, place, faults)
    return search


def student_plan(student: StudentSpec, chosen: Mapping[str, Any] | None = None) -> Plan:
    """Return the plan of the student before any stage; ``chosen`` are arguments that a search gives."""
    return Plan(factory=student.model, arguments={**student.arguments, **(chosen or {})})
