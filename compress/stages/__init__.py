"""The stages. To add one: a frozen dataclass in a file here, and a line in ``STAGES``."""

from __future__ import annotations

from profiles.tables import with_entry_points

STAGES: dict[str, str] = {
    "distill": "compress.stages.distill:Distill",
    "prune": "compress.stages.prune:Prune",
    "low_rank": "compress.stages.low_rank:LowRank",
    "quantize": "compress.stages.quantize:QuantizeStage",
    "pack": "compress.stages.pack:PackStage",
}


def stages() -> dict[str, str]:
    """Return the table of stages, with those that installed packages add."""
    return with_entry_points(STAGES, "edge_compress.stages")


__all__ = ["STAGES", "stages"]
