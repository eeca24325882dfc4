"""Record of ``compress recalibrate``: what was made of what, and how it was proven."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

from compress.report.check_record import Finding

SCHEMA = 1
FILE = "lineage.json"
"""In the bundle: what it was made of."""


@final
@dataclass(frozen=True, kw_only=True)
class SampleFacts:
    """Samples that new ranges are of.

    Attributes:
        digest: SHA-256 of their content and preparation.
        calibrated, held_out: how many the ranges are of, and how many the proof; the same ones where there are few.
    """

    kind: str
    digest: str
    calibrated: int
    held_out: int
    labelled: bool


@final
@dataclass(frozen=True, kw_only=True)
class Recalibration:
    """New ranges for a bundle.

    Attributes:
        made_of: name, version, key and SHA-256 of the manifest of the bundle that it was made of.
        changed: pairs whose range is another now, of ``pairs``; ``wider``: those whose step grew.
        cosine_before, cosine_after: of the engines' outputs with those of the float graph behind the pairs, on the samples
            that were held out; the least over the outputs.
        accuracy: of the new engine against the old one on the held-out samples; None without labels.
        golden: why the old engine is not the one that was proven; empty where it is.
        refused: why nothing was written; empty where it was.
        out: where the new bundle is; "" where nothing was written.
        version: of the new bundle; ``key``: that signed it, None where it is not signed.
        notes: what a reader should know.
    """

    bundle: str
    device: str
    engine: str
    made_of: dict[str, Any]
    samples: SampleFacts
    ranges: str
    pairs: int
    changed: int
    wider: int
    cosine_before: float
    cosine_after: float
    accuracy: Finding | None = None
    refused: tuple[str, ...] = ()
    out: str = ""
    version: int | None = None
    key: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Return 0 where a bundle was written, 1 where it was not good enough."""
        return 1 if self.refused else 0

    def lineage(self) -> dict[str, Any]:
        """Return what the new bundle states of its making."""
        accuracy = None if self.accuracy is None else {"compared": self.accuracy.compared, **self.accuracy.facts}
        return {
            "schema": SCHEMA,
            "made_of": self.made_of,
            "samples": asdict(self.samples),
            "ranges": self.ranges,
            "cosine_before": self.cosine_before,
            "cosine_after": self.cosine_after,
            "accuracy": accuracy,
        }

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"schema": SCHEMA, **asdict(self)}

    def __str__(self) -> str:
        made, samples = self.made_of, self.samples
        labelled = "with labels" if samples.labelled else "without labels"
        lines = [
            f"{self.bundle}: {made['name']} {made['version']}, ranges of {samples.calibrated} samples "
            f"({samples.kind}, {labelled})",
            f"{self.changed} of {self.pairs} ranges changed, {self.wider} of them wider",
            f"cosine with the float graph on {samples.held_out} samples: {self.cosine_before:.5f} before, "
            f"{self.cosine_after:.5f} now ({self.engine} on {self.device})",
        ]
        if self.accuracy is not None:
            lines.append(f"accuracy: {self.accuracy.words}")
        lines += [f"note: {note}" for note in self.notes]
        if self.refused:
            return "\n".join([*lines, *(f"not written: {reason}" for reason in self.refused)])
        signed = f"signed by key {self.key}" if self.key else f"not signed: look at it, then `compress sign {self.out}`"
        return "\n".join([*lines, f"{self.out}: {made['name']} {self.version}, {signed}"])
