"""prune: whole groups of coupled channels are cut out, then the rest recovers under the teacher's eye."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, final

from annotated_types import Ge, Gt, Lt

from compress.channels import cut, rank_groups
from compress.stage import Artifact, Context, StageResult, TrainedStage, copied
from profiles.device import DeviceProfile

MILDEST = 0.05


@final
@dataclass(frozen=True, kw_only=True)
class Prune(TrainedStage):
    """Cut the channels of least importance across all groups, keeping counts a multiple of the profile's.

    Attributes:
        ratio: fraction of all prunable channels to cut.
    """

    name = "prune"

    ratio: Annotated[float, Gt(0), Lt(1)] = 0.3
    epochs: Annotated[int, Ge(0)] = 15

    def key(self, profile: DeviceProfile) -> dict[str, Any]:
        return {"channel_multiple": profile.channel_multiple}

    def run(self, artifact: Artifact, context: Context) -> StageResult:
        groups, unfollowed = rank_groups(artifact.module, context.example)
        operation, whole = cut(artifact.module, context.example, groups, self.ratio, context.profile.channel_multiple)
        notes = (*whole, *unfollowed)
        if operation is None:
            return StageResult(artifact=artifact, notes=notes or ("no group has channels to spare",))
        module = operation.apply(copied(artifact))
        self.train(module, context)
        return StageResult(artifact=artifact.changed(operation, module), notes=notes)

    def softer(self) -> Prune | None:
        return replace(self, ratio=self.ratio / 2) if self.ratio / 2 >= MILDEST else None
