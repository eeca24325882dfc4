"""What an application has of a row: the whole path, memory, start; in tables, and as budgets."""

from dataclasses import replace

from compress.pipeline.verdict import conclude
from compress.recipe.spec import Budget
from compress.report.html import html
from compress.report.table import table
from deploy.measure.path_times import PathTimes
from tests.compress.report.test_record import FREE, STUDENT, TEACHER, TRIED, report_of, row


def path_of(total_ms):
    """Five blocks around a total, of which a tenth is before the engine and a tenth behind it."""
    blocks = [
        [[f * total_ms / 10, f * total_ms * 0.8, f * total_ms / 10, f * total_ms]] for f in (0.9, 1.0, 1.1, 0.95, 1.05)
    ]
    return PathTimes(blocks=blocks).summary()


def test_what_an_application_has_is_a_table_of_its_own():
    report = report_of((TEACHER, FREE, TRIED, STUDENT))
    assert "In an application" not in table(report), "old reports have nothing of it"
    costs = {"peak_mib": 80.4, "load_ms": 312.0, "first_ms": 1.25, "path_ms": path_of(10.0)}
    made = replace(report, rows=(replace(TEACHER, **costs), *report.rows[1:]))
    line = next(line for line in table(made).splitlines() if "10 (9.5 to 10.5)" in line)
    words = "1 1 (0.95 to 1.05) 8 (7.6 to 8.4) 1 (0.95 to 1.05) 10 (9.5 to 10.5) 80 312 1.25"
    assert line.split() == words.split()
    assert "10 (9.5 to 10.5)" in html(made) and made.rows[0].flat()["total_ms"] == 10.0


def test_budgets_of_memory_and_loading_are_kept_and_what_is_unknown_keeps_none():
    small = replace(row("student/b/int8", "student", 98.0, 98.0, 0.45), peak_mib=80.0, load_ms=300.0)
    large = replace(STUDENT, peak_mib=120.0, load_ms=100.0)
    budget = Budget(peak_mib=100.0, load_ms=400.0)
    assert conclude([TEACHER, FREE, large, small], budget).best == small.name, "the large one is faster"
    verdict = conclude([TEACHER, large], replace(budget, load_ms=50.0))
    assert verdict.why_not == (
        "peak memory, 120.0 MiB, is over the budget of 100 MiB",
        "the time to load, 100 ms, is over the budget of 50 ms",
    )
    over = conclude([TEACHER, replace(large, path_ms=path_of(7.25))], Budget(total_ms=7.0))
    assert over.why_not == ("the whole path, 7.250 ms, is over the budget of 7 ms",)
    assert conclude([TEACHER, replace(large, path_ms=path_of(7.0))], Budget(total_ms=7.0)).within_budget
    unknown = conclude([TEACHER, FREE, STUDENT], budget)
    assert unknown.why_not[0] == "peak memory, unknown, is over the budget of 100 MiB"
