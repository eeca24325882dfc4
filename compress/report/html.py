"""The report as one self-contained page with pictures."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compress.methods.choice import summary
from compress.report import picture
from compress.report.application_table import cells_of
from compress.report.calibration_curve import CalibrationCurve
from compress.report.record import Report, Row
from compress.report.rows_picture import pareto, rows_picture
from deploy.files import write_atomically
from deploy.packing.packed_file import describe

HTML_FILE = "report.html"
FRAGMENT_WIDTH = 150
COLOURS = {"baseline": "#5b6770", "stage": "#c77700", "student": "#00796b"}
FAMILIES = ("#00796b", "#c77700", "#5b6770", "#6a4c93", "#1f6fb2", "#8d6e63")
INK, GRID, BUDGET = "#22282c", "#dfe3e6", "#b3261e"


def write(report: Report, out: Path) -> None:
    """Write ``report.html``."""
    write_atomically(out / HTML_FILE, html(report).encode())


def html(report: Report) -> str:
    """Render the page; pictures are SVG inside it, and where plotly is installed that of the rows is interactive."""
    from compress.report.table import verdict

    is_interactive = picture.has_plotly()
    page = (
        picture.templates()
        .get_template("report.html.j2")
        .render(
            plotly=picture.plotly_script() if is_interactive else "",
            data=picture.as_script(rows_picture(report)) if is_interactive else "",
            report=report,
            teacher=report.teacher,
            verdict=verdict(report).strip().splitlines(),
            trade_off=trade_off(report),
            stages=stages(report),
            curve=calibration_curve(report.curve) if report.curve else "",
            choices=choices,
            summary=summary,
            stored=describe,
            application=cells_of,
        )
    )
    return str(page)


def fragment(report: Report) -> str:
    """Render rows and verdict as a piece of HTML for a notebook: the terminal's table, in colour."""
    from rich.console import Console

    from compress.report.table import print_report

    # A width of its own: a notebook scrolls to the side, and a wrapped row can be read by nobody.
    console = Console(file=io.StringIO(), record=True, width=FRAGMENT_WIDTH, highlight=False, force_jupyter=False)
    print_report(report, console)
    style = "white-space:pre; overflow-x:auto; line-height:1.25; font-family:monospace"
    return str(console.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>'))


def trade_off(report: Report) -> str:
    """Draw metric against latency for every row, the Pareto front and the budget drawn; numbers are the table's."""
    figure, axes = _figure(8.6, 5.0)
    rows, teacher = list(report.rows), report.teacher
    front = pareto(rows)
    across = [*(r.p50 for r in front), max(r.p50 for r in rows)]
    up = [*(r.metric.value for r in front), front[-1].metric.value]
    axes.step(across, up, where="post", color=INK, lw=1, zorder=1)
    axes.plot([], [], color=INK, lw=1, label="Pareto front")
    for kind, colour in COLOURS.items():
        chosen = [r for r in rows if r.kind == kind]
        if chosen:
            label = {"baseline": "free", "stage": "stage attempts", "student": "the student"}[kind]
            axes.scatter(
                [r.p50 for r in chosen], [r.metric.value for r in chosen], s=46, color=colour, label=label, zorder=2
            )
    best = report.row(report.verdict.best)
    axes.scatter([best.p50], [best.metric.value], s=170, facecolors="none", edgecolors=COLOURS["student"], lw=1.8, zorder=3)
    floor = teacher.metric.value - report.budget.accuracy_drop_points * report.scale / 100
    axes.axhline(floor, color=BUDGET, lw=1, ls="--")
    axes.annotate(
        f"budget: {report.budget.accuracy_drop_points:g} below the teacher",
        (1.0, floor),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        color=BUDGET,
        fontsize=8,
    )
    if report.budget.latency_ms_p50 is not None:
        axes.axvline(report.budget.latency_ms_p50, color=BUDGET, lw=1, ls="--")
    axes.set_xscale("log")
    _plain_ticks(axes)
    axes.set_xlabel("p50 latency, ms (log)")
    axes.set_ylabel(f"{teacher.metric.name}, {teacher.metric.unit} on test")
    lowest = min(r.metric.value for r in rows)
    axes.set_ylim(min(lowest, floor) - 0.35, max(r.metric.value for r in rows) + 0.35)
    _number(axes, rows)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    return _svg(figure)


def calibration_curve(curve: CalibrationCurve) -> str:
    """Draw int8's metric against the number of calibration samples: each draw, their mean, and the float model's."""
    figure, axes = _figure(8.6, 3.6)
    counts = [point.samples for point in curve.points]
    drawn = [(point.samples, value) for point in curve.points for value in point.values]
    colour = COLOURS["student"]
    low, high = ([pick(point.values) for point in curve.points] for pick in (min, max))
    axes.fill_between(counts, low, high, color=colour, alpha=0.15, lw=0, label="all draws")
    axes.plot(counts, [point.mean for point in curve.points], color=colour, lw=1.4, marker="o", ms=4, label="mean")
    axes.scatter(*zip(*drawn, strict=True), s=10, color=COLOURS["baseline"], zorder=3, label="a draw")
    axes.axhline(curve.float_value, color=INK, lw=1, ls="--", label="float")
    axes.axvline(curve.kept, color=BUDGET, lw=1, ls=":", label="this run")
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("calibration samples (log)")
    axes.set_ylabel(f"{curve.metric}, {curve.unit} on validation")
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    return _svg(figure)


def stages(report: Report) -> str:
    """Draw latency, size and metric before and after each attempted stage, in the form the gate judged."""
    steps = _before_after(report)
    if not steps:
        return ""
    figure, panels = _figure(8.6, 1.2 + 0.55 * len(steps), 3)
    quantities: tuple[tuple[str, Callable[[Row], float], str], ...] = (
        ("p50 latency, ms", lambda r: r.p50, "{:.3f}"),
        ("size, KiB", lambda r: r.size_bytes / 1024, "{:.0f}"),
        (f"{report.teacher.metric.name}, {report.teacher.metric.unit}", lambda r: r.metric.value, "{:.2f}"),
    )
    marks = {"accepted": COLOURS["student"], "softened": COLOURS["stage"], "rejected": BUDGET}
    for axes, (label, value, shape) in zip(panels, quantities, strict=True):
        for line, (before, after) in enumerate(steps):
            start, end = value(before), value(after)
            colour = marks[after.decision or "accepted"]
            axes.annotate("", (end, line), (start, line), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.6})
            axes.scatter([start], [line], s=22, color="white", edgecolors=colour, zorder=3)
            middle = f"{shape.format(start)} \u2192 {shape.format(end)}"
            axes.annotate(middle, ((start + end) / 2, line), (0, 7), textcoords="offset points", ha="center", fontsize=7.5)
        axes.set_ylim(len(steps) - 0.4, -0.7)
        axes.set_xlabel(label)
        ends = [value(row) for pair in steps for row in pair]
        room = 0.25 * (max(ends) - min(ends)) or 0.5
        axes.set_xlim(min(ends) - room, max(ends) + room)
        axes.set_yticks(range(len(steps)))
        axes.set_yticklabels([])
    names = [f"{after.title}\n{after.decision}, {after.precision}" for _, after in steps]
    panels[0].set_yticklabels(names)
    return _svg(figure)


def choices(row: Row) -> str:
    """Draw width or rank of each group and layer before (outline) and after (filled), and what each bought."""
    shown = row.choices
    if not shown:
        return ""
    figure, axes = _figure(8.6, 0.8 + 0.19 * len(shown))
    families = list(dict.fromkeys(c.family for c in shown))
    for line, choice in enumerate(shown):
        colour = FAMILIES[families.index(choice.family) % len(FAMILIES)]
        axes.barh(line, choice.before, height=0.7, facecolor="none", edgecolor=GRID)
        axes.barh(line, choice.after, height=0.7, color=colour)
        price = "" if choice.bought is None or not choice.unit else f", {choice.bought:.3g} {choice.unit}"
        label = (
            "taken out" if choice.kind == "block" else f"{choice.before} \u2192 {choice.after}, {100 * choice.kept:.0f} %"
        )
        axes.annotate(
            f"{label}{price}", (choice.before, line), (4, 0), textcoords="offset points", va="center", fontsize=6.5
        )
    axes.set_yticks(range(len(shown)))
    axes.set_yticklabels([f"{c.name} ({c.family})" if c.family else c.name for c in shown], fontsize=6.5)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1.35 * max(c.before for c in shown))
    axes.set_xlabel("width or rank; importance kept; saved, given all others")
    return _svg(figure)


def _before_after(report: Report) -> list[tuple[Row, Row]]:
    """Pair each attempt's row in its fastest form with the row of the same form before it."""
    standing = [r for r in report.rows if r.kind == "baseline"]
    pairs: list[tuple[Row, Row]] = []
    attempts: dict[str, list[Row]] = {}
    for row in report.rows:
        if row.kind == "stage":
            attempts.setdefault(row.title, []).append(row)
    for rows in attempts.values():
        after = min(rows, key=lambda r: r.p50)
        same_form = [r for r in standing if (r.engine, r.precision) == (after.engine, after.precision)]
        pairs.append(((same_form or standing)[0], after))
        if after.decision == "accepted":
            standing = rows
    return pairs


def _figure(width: float, height: float, panels: int = 1) -> tuple[Any, Any]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "edge-compress"
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["font.family"] = "sans-serif"
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for each in axes:
        each.grid(color=GRID, lw=0.6)
        each.set_axisbelow(True)
        each.tick_params(colors=INK, labelsize=8)
        for side in ("top", "right"):
            each.spines[side].set_visible(False)
    return figure, axes[0] if panels == 1 else axes


def _number(axes: Any, rows: list[Row]) -> None:
    """Write the table's number beside each point, where it covers the fewest points and numbers."""
    axes.figure.canvas.draw()
    spots = [tuple(axes.transData.transform((row.p50, row.metric.value))) for row in rows]
    taken = [(x, y, 9.0) for x, y in spots]
    for number, spot in enumerate(spots, 1):
        offsets = [(9, 8), (9, -14), (-14, 8), (-14, -14), (0, 13), (0, -20), (20, 0), (-22, 0), (22, 16), (22, -24)]
        crowd = [sum(_near(spot, offset, other) for other in taken) for offset in offsets]
        dx, dy = offsets[crowd.index(min(crowd))]
        taken.append((spot[0] + dx, spot[1] + dy, 12.0))
        scale = 72 / axes.figure.dpi
        style = {"textcoords": "offset points", "fontsize": 8, "color": INK, "ha": "center", "va": "center"}
        axes.annotate(str(number), (rows[number - 1].p50, rows[number - 1].metric.value), (dx * scale, dy * scale), **style)


def _near(spot: tuple[float, float], offset: tuple[int, int], other: tuple[float, float, float]) -> bool:
    x, y = spot[0] + offset[0], spot[1] + offset[1]
    return abs(x - other[0]) < other[2] and abs(y - other[1]) < other[2]


def _plain_ticks(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _svg(figure: Any) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
