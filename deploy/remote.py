"""The near end of a worker: start it on a device, tell it what to do, end it whatever happens."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, final

import numpy as np
import numpy.typing as npt

from deploy.devices import Device
from deploy.engines.base import BuildPlan, EngineError
from profiles.errors import UserError


@final
class RemoteWorker:
    """A worker process on a device, as a context manager: it is gone when the block ends.

    Every call raises ``EngineError`` when the runtime refuses or the process dies, with its last words.
    """

    def __init__(self, device: Device) -> None:
        self._device = device

    def __enter__(self) -> RemoteWorker:
        self._process = self._device.start_worker()
        self._last_words: deque[str] = deque(maxlen=20)
        # Drained by a thread, or a runtime that talks much would fill the pipe and hang.
        self._drain = threading.Thread(target=self._read_stderr, daemon=True)
        self._drain.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=0 if error else 5)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        self._drain.join(timeout=1)
        assert self._process.stdout is not None and self._process.stderr is not None
        self._process.stdout.close()
        self._process.stderr.close()

    def facts(self) -> dict[str, Any]:
        """What the device is, and which engines can run on it."""
        return self._call("facts")

    def build(self, model: Path, plan: BuildPlan, folder: Path) -> dict[str, Any]:
        """Build the engine of ``plan`` from an ONNX file; ``folder`` is where it lies when fetched."""
        remote = self._device.path(folder)
        done = self._call("build", model=self._device.put(model), plan=plan.as_json(), folder=remote)
        self._device.get(remote, folder)
        return done

    def open(self, folder: Path) -> dict[str, Any]:
        """Open the engine in ``folder``."""
        return self._call("open", folder=self._device.put(folder))

    def infer(self, feed: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Outputs by name for every sample of ``feed``, arrays of shape (samples, ...)."""
        with tempfile.TemporaryDirectory() as scratch:
            inputs, outputs = Path(scratch) / "inputs.npz", Path(scratch) / "outputs.npz"
            np.savez(inputs, **feed)  # type: ignore[arg-type]  # numpy's stub takes the keywords for its flags
            remote = self._device.path(outputs)
            self._call("infer", inputs=self._device.put(inputs), outputs=remote)
            self._device.get(remote, outputs)
            with np.load(outputs, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}

    def warm(self, feed: dict[str, npt.NDArray[Any]]) -> None:
        """Bind the first batch of ``feed`` as what ``time`` will run."""
        with tempfile.TemporaryDirectory() as scratch:
            inputs = Path(scratch) / "inputs.npz"
            np.savez(inputs, **feed)  # type: ignore[arg-type]
            self._call("warm", inputs=self._device.put(inputs))

    def time(self, seconds: float) -> list[float]:
        """Milliseconds of single inferences in one warmed block of about ``seconds``."""
        times: list[float] = self._call("time", seconds=seconds)["ms"]
        return times

    def _call(self, do: str, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._drain.join(timeout=1)
            words = " | ".join(self._last_words) or "it said nothing"
            raise EngineError(f"the worker on {self._device.url} died in '{do}' (exit {self._process.poll()}): {words}")
        reply = json.loads(line)
        if "ok" in reply:
            answer: dict[str, Any] = reply["ok"]
            return answer
        if reply["kind"] == "user":
            raise UserError(*reply["error"].splitlines())
        if reply["kind"] == "engine":
            raise EngineError(reply["error"])
        raise RuntimeError(f"the worker on {self._device.url} failed in '{do}':\n{reply['error']}")

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._last_words.append(line.rstrip())
