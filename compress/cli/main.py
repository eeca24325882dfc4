"""The command line: parse, call, print. No logic, and no torch before a command needs it.

Reports go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed (of check: worse),
2 the user's fault, 3 over budget, out of reach or not to be told, 130 interrupted.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import click

from compress import __version__
from profiles.errors import MOST_LINE, OutOfReachError, UserError, one_line

INTERRUPTED = 130
COMMANDS = {
    "init": "compress.cli.init:init",
    "run": "compress.cli.run:run",
    "search": "compress.cli.search:search",
    "students": "compress.cli.students:students",
    "bench": "compress.cli.bench:bench",
    "classes": "compress.cli.classes:classes",
    "check": "compress.cli.check:check",
    "cascade": "compress.cli.cascade:cascade",
    "compare-data": "compress.cli.compare_data:compare_data",
    "recalibrate": "compress.cli.recalibrate:recalibrate",
    "report": "compress.cli.report:report",
    "ship": "compress.cli.ship:ship",
    "rollback": "compress.cli.ship:rollback",
    "status": "compress.cli.ship:status",
    "sign": "compress.cli.keys:sign",
    "keys": "compress.cli.keys:keys",
    "device": "compress.cli.device:group",
    "profiles": "compress.cli.profiles:profiles",
    "stages": "compress.cli.listing:stages",
    "engines": "compress.cli.listing:engines",
    "losses": "compress.cli.listing:losses",
    "tasks": "compress.cli.listing:tasks",
    "schema": "compress.cli.schema:schema",
    "teachers": "compress.cli.teachers:teachers",
    "condense": "compress.cli.condense:condense",
    "doctor": "compress.cli.doctor:doctor",
}
HELP = {
    "init": "Write a first recipe for a model, a folder of data and a device.",
    "run": "Take a checkpoint to a measured, gated student and a bundle.",
    "search": "Search recipes for the front of accuracy, latency and size.",
    "students": "Search a student without training, by score and measured latency.",
    "bench": "Time ONNX files or engines against each other.",
    "cascade": "Let a small model answer where it is sure, and a large one elsewhere.",
    "compare-data": "Tell whether two sets of samples are alike to a model.",
    "recalibrate": "Make new int8 ranges for a bundle of new samples; prove and sign it again.",
    "classes": "Give a bundle the class vectors of other classes, without training.",
    "check": "Tell whether a new model is slower or less accurate than an old one.",
    "report": "Show the report of a finished run again.",
    "ship": "Bring a bundle to devices: verified, built and proven there, then switched to.",
    "rollback": "Go back one release on devices.",
    "status": "Show what devices serve.",
    "sign": "Sign a bundle.",
    "keys": "Make, list and hand out the keys that sign bundles.",
    "device": "Show what edge-compress keeps on a board, or remove it.",
    "profiles": "List the devices, explain one, or make one from a board.",
    "stages": "List the stages and their settings.",
    "engines": "List the engines, and whether each can run here.",
    "losses": "List the losses of a recipe.",
    "tasks": "List the tasks and data sources.",
    "schema": "Print the JSON Schema of a recipe or a profile, for editors.",
    "teachers": "Rank a recipe's teachers by how well they fit the data.",
    "condense": "Make a small set that stands for a recipe's training data, in one file.",
    "doctor": "Show versions, hardware, runtimes, and why one is missing.",
}


class LazyGroup(click.Group):
    """Import a command when it is called, so that --help stays fast."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        from profiles.tables import load_object

        command: click.Command = load_object(COMMANDS[name])
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(HELP.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="compress")
def main() -> None:
    """Compress a PyTorch model for a device, and prove it there."""


def entry(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code and prints one line for each thing the user got wrong."""
    try:
        code: Any = main.main(args=arguments, prog_name="compress", standalone_mode=False)
        return int(code or 0)
    except click.exceptions.Abort:
        return _print_errors(["interrupted; the same command goes on from here"], INTERRUPTED)
    except KeyboardInterrupt:
        return _print_errors(["interrupted; the same command goes on from here"], INTERRUPTED)
    except click.ClickException as error:
        _show(error)
        return error.exit_code
    except UserError as error:
        return _print_errors(error.faults, 3 if isinstance(error, OutOfReachError) else 2)
    except Exception as error:
        line = _expected(error)
        if line is None:
            raise
        return _print_errors(line.splitlines() or [type(error).__name__], 1)


def _show(error: click.ClickException) -> None:
    """Print what click says; a message that is too long, or has line breaks, as one line."""
    message, room = error.format_message(), MOST_LINE - len("Error: ")
    is_help = isinstance(error, click.exceptions.NoArgsIsHelpError)
    if is_help or message == one_line(message, room):
        error.show()
    else:
        click.ClickException(one_line(message, room)).show()


def script() -> None:
    """Run the command line and leave with its exit code."""
    code = entry()
    if code == INTERRUPTED:
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    """Exit now. ``python -m`` would turn 130 into death by SIGINT where the interrupt had passed through an ``eval``."""
    for ended in (atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
        ended()
    os._exit(code)


def _expected(error: Exception) -> str | None:
    """Describe a failure that is nobody's bug; None for a bug, which keeps its traceback."""
    import errno

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return f"the disk is full ({error.strerror}); finished steps are kept: free some space and run again"
    if type(error).__name__ in ("DeviceError", "EngineError", "FailedError", "StageError"):
        return str(error)
    return None


def _print_errors(lines: Iterable[str], code: int) -> int:
    """Print each of ``lines`` as one printable line of at most 500 characters; return ``code``."""
    for line in lines:
        print(one_line(f"error: {line}"), file=sys.stderr)
    return code
