"""What else a machine did, from /proc/stat as kernels write it; values worked by hand, and this machine."""

import os

import pytest

from deploy.measure.load import Load, Usage, load_average, load_between, look, read_usage

TICKS = os.sysconf("SC_CLK_TCK")


def stat(folder, *columns, name="cpu"):
    (folder / "proc").mkdir(exist_ok=True)
    (folder / "proc/stat").write_text(f"{name}  {' '.join(map(str, columns))}\ncpu0 1 2 3\nintr 1\n")
    return folder


def test_busy_is_what_is_neither_idle_nor_waiting_nor_stolen(tmp_path):
    usage = read_usage(stat(tmp_path, 1000, 200, 300, 90000, 7000, 40, 60, 500, 999, 0))
    assert usage.busy_s == (1000 + 200 + 300 + 40 + 60) / TICKS, "guests are part of user"
    assert usage.stolen_s == 500 / TICKS


@pytest.mark.parametrize("columns", [(1, 2, 3), ()])
def test_what_the_machine_does_not_tell_is_none_and_no_doubt(tmp_path, columns):
    usage = read_usage(stat(tmp_path, *columns))
    assert (usage.busy_s, usage.stolen_s) == (None, None)
    assert read_usage(stat(tmp_path, *[9] * 10, name="intr")).busy_s is None
    load = load_between(usage, usage)
    assert (load.others_s, load.stolen_s, load.doubts()) == (None, None, ())
    assert load_average(tmp_path) is None


def used(wall_s=0.0, own_s=0.0, interruptions=0, busy_s=0.0, stolen_s=0.0):
    return Usage(wall_s=wall_s, own_s=own_s, interruptions=interruptions, busy_s=busy_s, stolen_s=stolen_s)


def test_others_are_the_machine_less_this_process():
    """Ten seconds: 18 s of two cores busy, 12 of them this process's, so others used 0.6 cores."""
    load = load_between(used(5, 1, 7, 100, 3), used(15, 13, 27, 118, 3.2), cores=2)
    assert (load.wall_s, load.others_s, load.interruptions) == (10, 6, 20)
    assert load.stolen_s == pytest.approx(0.2)
    assert load.doubts() == ("other processes used 0.6 of 2 cores",), "2 interruptions a second, 1 % stolen: quiet"


@pytest.mark.parametrize(
    ("after", "doubt"),
    [
        (used(10, busy_s=3.9), ""),
        (used(10, busy_s=4.1), "other processes used 0.4 of 4 cores"),
        (used(10, stolen_s=0.79), ""),
        (used(10, stolen_s=1.2), "3 % of the time was taken by other virtual machines"),
        (used(10, interruptions=1490), ""),
        (used(10, interruptions=1510), "what was timed was interrupted 151 times a second"),
    ],
)
def test_each_threshold(after, doubt):
    """Of four cores in ten seconds: 4 s of others, 0.8 s stolen, 1,500 interruptions."""
    assert load_between(used(), after, cores=4).doubts() == ((doubt,) if doubt else ())


def test_loads_add_up_and_a_block_without_a_figure_adds_none():
    one = Load(wall_s=1, cores=2, interruptions=3, others_s=0.5, stolen_s=None)
    both = one + Load(wall_s=2, cores=2, interruptions=4, others_s=0.25, stolen_s=None)
    assert (both.wall_s, both.interruptions, both.others_s, both.stolen_s) == (3, 7, 0.75, None)
    assert (Load() + one).others_s == 0.5 and Load().doubts() == ()


def test_a_process_that_computes_is_seen_here_and_this_one_is_not(tmp_path):
    """By a clock that stands in for the kernel's: others may use this machine. The sleeper computes for half of it."""

    def compute(seconds):
        stat(tmp_path, 100 + 3 * TICKS, *[0] * 9)

    stat(tmp_path, 100, *[0] * 9)
    seen = look(0.0, tmp_path, compute)
    assert seen.others_s == pytest.approx(3.0, abs=0.1)
    here = read_usage()
    assert here.busy_s is None or here.busy_s >= here.own_s > 0
