"""The host's end of a worker: start it on a device, send requests, end it whatever happens."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, final

import numpy as np
import numpy.typing as npt

from deploy.board.relay import JOB_GONE, LOST, NOTICE
from deploy.devices import Device, DeviceError
from deploy.engines.base import BuildPlan, EngineError
from deploy.files.npz import ArraysError, read_arrays
from deploy.measure.conditions import Conditions
from deploy.measure.load import Load
from deploy.measure.timing import Times
from deploy.worker.answers import as_lines, is_answer
from profiles.errors import UserError, one_line

HOUR_S = 3600.0
LIMIT_S = {"facts": 600.0, "conditions": 120.0, "build": 4 * HOUR_S, "infer": 4 * HOUR_S}
"""How long a request may take, past what it was asked to last: a hung runtime must not hang a run."""
OTHER_LIMIT_S = HOUR_S
MOST_ANSWER = 1 << 25
"""Characters of an answer's line: a million and a half of times. What JSON makes of it takes thirty times as much."""
MOST_FAULTS = 8
MOST_WORDS = 2000
"""Characters of a line of a worker's standard error, and of its errors, that are shown."""
EXIT_WAIT_S = 5.0


@final
class RemoteWorker:
    """A worker process on a device, as a context manager: it is gone when the block ends.

    Every call raises ``EngineError`` when the runtime refuses or the process dies, with its last words, and
    ``DeviceError`` when the device is out of reach for too long.

    Attributes:
        process: the worker itself where the device is this machine, else the near end of what carries its words.
    """

    def __init__(self, device: Device) -> None:
        self._device = device

    def __enter__(self) -> RemoteWorker:
        self.process = self._device.start_worker()
        self._stderr_lines: deque[str] = deque(maxlen=20)
        # Drained by a thread, or a runtime that talks much would fill the pipe and hang.
        self._drain = threading.Thread(target=self._read_stderr, daemon=True)
        self._drain.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(timeout=0 if error else EXIT_WAIT_S)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._end()
        self._drain.join(timeout=1)
        assert self.process.stdout is not None and self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()

    def facts(self) -> dict[str, Any]:
        """Return the device's facts, and the engines that can run on it."""
        facts: dict[str, Any] = as_lines(self._call("facts"))
        return facts

    def build(self, model: Path, plan: BuildPlan, folder: Path) -> dict[str, Any]:
        """Build the engine of ``plan`` from an ONNX file; ``folder`` is where it lies when fetched."""
        remote = self._device.path(folder)
        result = self._call("build", model=self._device.put(model), plan=plan.as_json(), folder=remote)
        self._device.get(remote, folder)
        self._device.forget(remote)
        return result

    def open(self, folder: Path) -> dict[str, Any]:
        """Open the engine in ``folder``; return its ``inputs``, ``batch``, ``threads`` and ``load_ms``."""
        return self._call("open", folder=self._device.put(folder))

    def infer(self, feed: dict[str, npt.NDArray[Any]], every: bool | None = None) -> dict[str, npt.NDArray[Any]]:
        """Return outputs by name for every sample of ``feed``, arrays of shape (samples, ...).

        Args:
            every: of an engine with states: whether outputs of every step are given; as it was built for without it.
        """
        with tempfile.TemporaryDirectory() as scratch:
            inputs, outputs = Path(scratch) / "inputs.npz", Path(scratch) / "outputs.npz"
            np.savez(inputs, **feed)  # type: ignore[arg-type]  # numpy's stub takes the keywords for its flags
            remote_inputs, remote_outputs = self._device.put(inputs), self._device.path(outputs)
            asked = {} if every is None else {"every": every}
            self._call("infer", inputs=remote_inputs, outputs=remote_outputs, **asked)
            self._device.get(remote_outputs, outputs)
            for remote in (remote_inputs, remote_outputs):
                self._device.forget(remote)
            try:
                return read_arrays(outputs)
            except ArraysError as error:
                raise EngineError(f"the worker on {self._device.url} sent outputs in a file that {error}") from None

    def warm(self, feed: dict[str, npt.NDArray[Any]]) -> float:
        """Bind the first batch of ``feed`` as the input of ``time`` and run it; return the milliseconds of that run."""
        with tempfile.TemporaryDirectory() as scratch:
            inputs = Path(scratch) / "inputs.npz"
            np.savez(inputs, **feed)  # type: ignore[arg-type]
            return float(self._call("warm", inputs=self._device.put(inputs))["first_ms"])

    def peak_mib(self) -> float | None:
        """Return the most MiB that were resident in the worker at once; None where the device does not tell."""
        most: float | None = self._call("peak")["peak_mib"]
        return most

    def time(self, seconds: float) -> Times:
        """Time single inferences in one warmed block of about ``seconds``."""
        return Times.from_json(self._call("time", lasting_s=seconds, seconds=seconds))

    def describe(self, folder: Path) -> None:
        """Send what is before and after the opened engine, and raw samples: files as a bundle has them."""
        remote = self._device.put(folder)
        self._call("describe", folder=remote)
        self._device.forget(remote)

    def time_path(self, seconds: float) -> list[list[float]]:
        """Time raw samples to answers in one warmed block of about ``seconds``: rows of pre, engine, post, total in ms."""
        rows: list[list[float]] = self._call("time_path", lasting_s=seconds, seconds=seconds)["rows"]
        return rows

    def time_models(
        self, models: Sequence[Path], plan: BuildPlan, seconds: float, passes: int
    ) -> tuple[list[float], list[float], list[list[float]]]:
        """Time many small models in turns on random inputs; return least and median milliseconds of each, and by pass."""
        remote_models = [self._device.put(model) for model in models]
        times = self._call(
            "time_models", lasting_s=HOUR_S, models=remote_models, plan=plan.as_json(), seconds=seconds, passes=passes
        )
        for remote in remote_models:
            self._device.forget(remote)
        if len(times["p50_ms"]) != len(models) or len(times["passes_ms"]) != len(models):
            raise EngineError(f"the worker on {self._device.url} answered with times of other models than it was given")
        return times["least_ms"], times["p50_ms"], times["passes_ms"]

    def conditions(self) -> Conditions:
        """Return the device's measuring conditions now."""
        return Conditions.from_json(as_lines(self._call("conditions")))

    def look(self, seconds: float) -> Load:
        """Return what the device does while it is asked for nothing for so many seconds."""
        return Load(**self._call("look", lasting_s=seconds, seconds=seconds))

    def cool(self, start_c: float, at_most_s: float) -> float:
        """Let the device cool down if it is hot, and hotter than at the start; return the seconds waited."""
        return float(self._call("cool", lasting_s=at_most_s, start_c=start_c, at_most_s=at_most_s)["waited_s"])

    def energy_mj(self, seconds: float) -> float | None:
        """Measure millijoules of one inference over about ``seconds``; None where the device has no power rails."""
        energy: float | None = self._call("energy", lasting_s=seconds, seconds=seconds)["mj"]
        return energy

    def lock_clocks(self) -> None:
        """Lock the device's clocks until this worker ends."""
        self._call("lock_clocks")

    def _call(self, do: str, *, lasting_s: float = 0.0, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        limit_s = LIMIT_S.get(do, OTHER_LIMIT_S) + lasting_s
        too_late = threading.Event()
        timer = threading.Timer(limit_s, self._stop_late, (too_late,))
        timer.start()
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline(MOST_ANSWER)
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if too_late.is_set():
            raise EngineError(f"the worker on {self._device.url} did not end '{do}' within {limit_s:g} s; it was stopped")
        if not line:
            self._drain.join(timeout=1)
            words = " | ".join(self._stderr_lines) or "it said nothing"
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=1)
            if self.process.poll() in (LOST, JOB_GONE):
                raise DeviceError(f"{self._device.url}: '{do}' was not finished: {words.replace(NOTICE, '')}")
            raise EngineError(f"the worker on {self._device.url} died in '{do}' (exit {self.process.poll()}): {words}")
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            reply = {}
        if is_answer(do, reply.get("ok")):
            result: dict[str, Any] = reply["ok"]
            return result
        error, kind = reply.get("error"), reply.get("kind")
        if not isinstance(error, str):
            raise EngineError(f"the worker on {self._device.url} answered '{do}', but not as the device side does")
        if kind == "user":
            raise UserError(
                *[one_line(line, MOST_WORDS) for line in error.splitlines()[:MOST_FAULTS]] or ["no reason given"]
            )
        if kind == "engine":
            raise EngineError(one_line(error, MOST_WORDS))
        raise RuntimeError(f"the worker on {self._device.url} failed in '{do}':\n{error[-MOST_WORDS * 10 :]}")

    def _stop_late(self, too_late: threading.Event) -> None:
        too_late.set()
        self._end()

    def _end(self) -> None:
        """Stop the process; a relay gets the time to stop the process that it stands for."""
        self.process.terminate()
        try:
            self.process.wait(timeout=2 * EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(ValueError):  # closed while it was read: its block is over
            while line := self.process.stderr.readline(MOST_WORDS):
                self._stderr_lines.append(line.rstrip())
                if line.startswith(NOTICE):
                    sys.stderr.write(f"{self._device.url}: {line.removeprefix(NOTICE)}")
