"""Models as cached steps, and keys of their code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

from compress.execution import distributed
from compress.execution.cache import Step, digest, source_digest
from compress.methods.choice import Choice
from compress.models import plan as surgery
from compress.models.plan import Plan
from compress.stages.base import Artifact


@final
@dataclass(frozen=True, eq=False)
class CachedModel:
    """Model in a cached step, loaded from disk at its first use. Equal by key."""

    step: Step

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CachedModel) and other.step.key == self.step.key

    def __hash__(self) -> int:
        return hash(self.step.key)

    @cached_property
    def artifact(self) -> Artifact:
        plan, module = surgery.load(self.step.folder)
        return Artifact(plan=plan, module=module, stages=tuple(self.step.facts["stages"]))

    @property
    def is_onnx(self) -> bool:
        """Whether it is an ONNX file without source code, so that it has no artifact."""
        return not (self.step.folder / surgery.PLAN).exists()

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.step.facts["notes"])

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Choices of its stage for each part."""
        return tuple(Choice(**choice) for choice in self.step.facts.get("choices", ()))

    @property
    def about(self) -> str:
        """Basis of its choices."""
        return str(self.step.facts.get("about", ""))

    @property
    def recipe(self) -> str | None:
        """Q/DQ recipe that it was trained for; None for a float model."""
        found: str | None = self.step.facts["recipe"]
        return found

    @property
    def seconds(self) -> float:
        """Seconds that making it took, before its branches were folded."""
        return float(self.step.facts.get("seconds", self.step.seconds))

    @property
    def packed(self) -> bool:
        """Whether its weights are indices of few points, and are stored so."""
        return bool(self.step.facts.get("packed", False))

    @property
    def changed(self) -> bool:
        """Whether the stage did anything to the model."""
        return bool(self.step.facts["changed"])


def model_key(plan: Plan) -> str:
    """Digest the code of a plan's model."""
    return digest([source_digest(source) for source in surgery.sources(plan, plan.build())])


def model_facts(
    stages: tuple[str, ...] = (), notes: tuple[str, ...] = (), recipe: str | None = None, *, changed: bool = True
) -> dict[str, Any]:
    """Return the facts of a step that holds a model; ``processes`` that made it are no part of its key."""
    about = {"stages": list(stages), "notes": list(notes), "recipe": recipe, "changed": changed}
    return {**about, "processes": distributed.count()}
