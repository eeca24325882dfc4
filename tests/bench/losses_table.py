"""The table of docs/losses.md, from finished trainings."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from compress.losses import LOSSES

Found = dict[str, Any]


def table(found: list[Found], budget: Any, full: Any) -> str:
    """The trainings of one budget, each loss beside ``kd``."""
    found = [f for f in found if all(f.get(k) == getattr(budget, k) for k in ("epochs", "samples", "blocks", "batch_size"))]
    together = sorted({f["loss"] for f in found} - set(LOSSES))
    best = {(loss, start): _best(found, loss, start) for start in ("scratch", "inherited") for loss in [*LOSSES, *together]}
    noise = _deviation(list(best.values()))
    lines = [*_about(found, budget, full, noise), ""]
    lines += ["| loss | start | scale | top-1 % | ECE points | against kd |", "|---|---|---|---|---|---|"]
    for (loss, start), cells in best.items():
        if not cells:
            continue
        figures = f"{cells[0]['scale']:g} | {_spread(cells, 'top1')} | {_spread(cells, 'ece')}"
        lines.append(f"| `{loss}` | {start} | {figures} | {_verdict(loss, cells, best[('kd', start)])} |")
    return "\n".join(lines)


def keep(document: Path, mark: str, text: str) -> None:
    """Put ``text`` between the document's marks."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, _, rest = document.read_text().partition(begin)
    document.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


def _about(found: list[Found], budget: Any, full: Any, noise: float | None) -> list[str]:
    share = "all training images" if not budget.samples else f"{budget.samples} training images"
    student = f"ResNet-{6 * budget.blocks + 2} in batches of {budget.batch_size}"
    minutes = sum(f["seconds"] for f in found) / 60
    about = f"{budget.epochs} epochs of {share}, {student}, {len(found)} trainings, {minutes:.0f} minutes of one core."
    if any(getattr(budget, k) != getattr(full, k) for k in ("epochs", "samples", "blocks", "batch_size")):
        about += " **Not the whole budget: what learns fast is favoured more than there.**"
    if noise is None:
        return [about]
    return [
        about,
        f"Over all losses two seeds differ by a standard deviation of {noise:.2f} points of top-1: so a gap to "
        f"`kd` below {2 * noise:.1f} (twice its standard error) says nothing.",
    ]


def _deviation(groups: list[list[Found]]) -> float | None:
    """Standard deviation of one training over seeds, pooled over losses; None without two seeds of one."""
    values = [[f["test"]["top1"] for f in cells] for cells in groups if len(cells) > 1]
    if not values:
        return None
    squares = sum((len(v) - 1) * statistics.variance(v) for v in values)
    return math.sqrt(squares / sum(len(v) - 1 for v in values))


def _best(found: list[Found], loss: str, start: str) -> list[Found]:
    """The trainings of the scale that is best on validation."""
    mine = [f for f in found if f["loss"] == loss and f["start"] == start]
    by_scale = [[f for f in mine if f["scale"] == scale] for scale in sorted({f["scale"] for f in mine})]
    return max(by_scale, key=lambda cells: statistics.mean(f["validation"]["top1"] for f in cells), default=[])


def _verdict(loss: str, cells: list[Found], kd: list[Found]) -> str:
    """The gap to ``kd`` over the seeds that both have."""
    both = {f["seed"] for f in cells} & {f["seed"] for f in kd}
    if loss == "kd" or not both:
        return ""
    ours, theirs = (statistics.mean(f["test"]["top1"] for f in group if f["seed"] in both) for group in (cells, kd))
    return f"{ours - theirs:+.2f}" + ("" if ours > theirs else ": does not beat it in this budget")


def _spread(cells: list[Found], figure: str) -> str:
    """Mean and half the range over seeds."""
    values = [f["test"][figure] for f in cells]
    spread = f" ± {(max(values) - min(values)) / 2:.2f}" if len(values) > 1 else " (one seed)"
    return f"{statistics.mean(values):.2f}{spread}"
