"""Progress and time left of long work: a bar on a terminal and in a notebook, else a line now and then."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TextIO, TypeVar, final

from compress.execution.heartbeat import Voice

QUIET_SECONDS = 5.0
Item = TypeVar("Item")


class Bar(Protocol):
    """Piece of work that is under way."""

    def advance(self, steps: int, note: str = "") -> None:
        """Count ``steps`` more as done; ``note`` is shown beside them."""


class Progress(Protocol):
    """Display of progress."""

    def say(self, line: str) -> None:
        """Print one line that stays."""

    def task(self, name: str, total: int, done: int = 0) -> _Task:
        """Begin a piece of work of ``total`` steps, as a context manager."""


@final
class _Task:
    """A bar of rich's on a terminal or in a notebook; elsewhere a line at most every five seconds, and one at the end."""

    def __init__(self, voice: Voice, name: str, total: int, done: int, *, notebook: bool = False) -> None:
        self._notebook, self._has_bar = notebook, notebook or voice.stream.isatty()
        self._voice, self._name, self._total, self._done, self._first = voice, name, max(total, 1), done, done
        self._started = self._spoke = time.monotonic()
        self._said = done
        self._note = ""

    def __enter__(self) -> _Task:
        self._told = self._voice.doing(self._name)
        self._told.__enter__()
        if self._has_bar:
            self._open_bar()
        return self

    def __exit__(self, *error: object) -> None:
        self._told.__exit__(None, None, None)
        if self._has_bar:
            self._bar.stop()
            self._voice.bars -= 1
        elif error[0] is None and self._spoke != self._started and self._said != self._done:
            self._print()

    def advance(self, steps: int, note: str = "") -> None:
        self._done += steps
        self._note = note
        if self._has_bar:
            self._bar.update(self._id, completed=self._done, note=note)
        elif time.monotonic() - self._spoke >= QUIET_SECONDS:
            self._print()
            self._spoke = time.monotonic()

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("  {task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        console = Console() if self._notebook else Console(file=self._voice.stream)
        self._bar = RichProgress(*columns, console=console, transient=True)
        self._id = self._bar.add_task(self._name, total=self._total, completed=self._done, note="")
        self._bar.start()
        self._voice.bars += 1

    def _print(self) -> None:
        self._said = self._done
        elapsed = time.monotonic() - self._started
        speed = (self._done - self._first) / elapsed if elapsed > 0 else 0.0
        left = (self._total - self._done) / speed if speed else float("nan")
        self._voice.say(f"  {self._name}: {self._done}/{self._total}, {left:.0f} s left  {self._note}".rstrip())


@final
class StreamProgress:
    """Progress on a stream, standard error by default; with ``notebook``, bars are rich's widgets."""

    def __init__(self, stream: TextIO | None = None, *, notebook: bool = False) -> None:
        self._voice, self._notebook = Voice(stream or sys.stderr), notebook

    def say(self, line: str) -> None:
        self._voice.say(line)

    def doing(self, what: str) -> AbstractContextManager[None]:
        """Have ``what`` told, for a block, when nothing else is said for a while."""
        return self._voice.doing(what)

    def keep_telling(self) -> AbstractContextManager[None]:
        """Say at least every five seconds, for a block, what is being done."""
        return self._voice.keep_telling()

    def task(self, name: str, total: int, done: int = 0) -> _Task:
        return _Task(self._voice, name, total, done, notebook=self._notebook)


def progress_here() -> StreamProgress:
    """Choose progress on standard error; in a notebook on standard output, with rich's widgets where there are any."""
    from rich import get_console

    if not get_console().is_jupyter:
        return StreamProgress()
    return StreamProgress(sys.stdout, notebook=importlib.util.find_spec("ipywidgets") is not None)


def follow(bar: Bar) -> Callable[[int, int], None]:
    """Return what brings a bar to as many steps as are done of a total; a repetition brings it back."""
    at = 0

    def show(done: int, total: int) -> None:
        nonlocal at
        bar.advance(done - at)
        at = done

    return show


def doing(progress: Progress, what: str) -> AbstractContextManager[None]:
    """Have ``what`` told, for a block, when nothing else is said for a while; a display of one's own need not know how."""
    return progress.doing(what) if isinstance(progress, StreamProgress) else nullcontext()


def keep_telling(progress: Progress) -> AbstractContextManager[None]:
    """Say at least every five seconds, for a block, what is being done; a display of one's own need not know how."""
    return progress.keep_telling() if isinstance(progress, StreamProgress) else nullcontext()


@contextmanager
def timed(progress: Progress, name: str) -> Iterator[None]:
    """Say ``name`` and, when the block has ended, how long it took."""
    started = time.monotonic()
    yield
    progress.say(f"  {name}: {time.monotonic() - started:.1f} s")


def count_progress(progress: Progress | None, name: str, items: Sequence[Item]) -> Iterator[Item]:
    """Yield ``items``, each counted as done when the next is asked for; without progress just they."""
    if progress is None:
        yield from items
        return
    with progress.task(name, len(items)) as bar:
        for item in items:
            yield item
            bar.advance(1)
