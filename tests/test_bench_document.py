"""The page of benchmarks: claims first, provenance in each table, and tables of older code named."""

import dataclasses
import re
import subprocess
import sys

import pytest

from tests.bench import document, record
from tests.bench.claims import CLAIMS, HEADINGS, IN_README
from tests.bench.figure import Figure, Table, at_least
from tests.bench.record import code_digest, load, measured, save
from tests.conftest import ROOT

TABLE = Table(figures=[at_least("speed | twice", 2.0, 2.5), Figure(what="note", asked="", measured="1", met=None)], seeds=3)


def test_every_claim_names_a_figure_that_is_kept_and_every_table_has_a_heading():
    records = load()
    for _, bench, what in CLAIMS:
        assert records[bench].find(what).asked
    under = {bench for _, _, benches in HEADINGS for bench in benches}
    assert {name.partition(":")[0] for name in records} <= under
    assert len(HEADINGS) == 6


def test_the_page_and_readme_are_what_the_records_say():
    text, readme = document.DOCUMENT.read_text(), document.README.read_text()
    for one in load().values():
        assert f"`{one.title}`" in text and f"commit {one.commit}" in text
    assert text.index("## Claims") < text.index("## Whole runs")
    assert len(readme.splitlines()) <= 100
    assert readme.count("\n| ", readme.index("claims: begin"), readme.index("claims: end")) >= IN_README


def test_a_record_comes_back_as_it_was_and_carries_its_machine_commit_and_code(tmp_path):
    made = measured("loader", TABLE, 12.4)
    save(made, tmp_path)
    assert load(tmp_path) == {"loader": made}
    assert made.seconds == 12 and made.seeds == 3 and made.code == code_digest("loader") and not made.is_stale
    assert re.fullmatch(r"[0-9a-f]{8}\+?", made.commit)


def test_a_table_of_older_code_says_so_and_is_listed(monkeypatch):
    fresh = measured("loader", TABLE, 1.0)
    old, unknown = dataclasses.replace(fresh, code="0" * 64), dataclasses.replace(fresh, bench="select", code="")
    assert "older code" not in document.section(fresh)
    assert "**older code**" in document.section(old)
    lines = document.stale({"loader": old, "select": unknown, "fresh": fresh})
    assert len(lines) == 2
    assert "its code has changed since" in lines[0] and "measured before code was recorded" in lines[1]
    row = document.claims({"loader": old}, [("it is fast", "loader", "speed")])
    assert "older code" in row and "| it is fast | >= 2x | 2.50x |" in row and "| 3 |" in row


@pytest.fixture
def changed(monkeypatch):
    """Digest a bench's code as if the file with some words in it had one line more."""
    real = record.source_digest

    def digest(bench, words):
        monkeypatch.setattr(record, "source_digest", lambda text: real(text + "\nX = 1" if words in text else text))
        for cached in (record._module_digest, record._file_digest):
            cached.cache_clear()
        return code_digest(bench)

    yield digest
    for cached in (record._module_digest, record._file_digest):
        cached.cache_clear()


def test_what_a_bench_measures_decides_its_digest(changed):
    before = code_digest("loader")
    assert changed("loader", "class ImageSamples") != before
    assert changed("loader", "class Figure") == before, "how it is shown"


def test_a_bench_of_the_command_measures_a_whole_run(changed):
    """The gate is in no bench's imports: the command is run in a process of its own."""
    before = {name: code_digest(name) for name in ("spine", "loader")}
    assert changed("spine", "def decide(") != before["spine"]
    assert changed("loader", "def decide(") == before["loader"]


@pytest.mark.slow
def test_stale_is_a_command():
    done = subprocess.run([sys.executable, "-m", "tests.bench", "--stale"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == (1 if "commit" in done.stdout else 0), done.stderr
