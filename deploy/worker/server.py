"""The worker: a process on the device that builds, opens and runs one engine, by requests line by line.

Requests are JSON objects, one a line, on standard input; each is answered by one JSON line on standard output:
``{"ok": {...}}`` or ``{"error": "...", "kind": "user" | "engine" | "bug"}``. Runtimes print to
standard output as they like, so the real one is kept aside and theirs is pointed at standard error.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from deploy.bundle import raw_samples
from deploy.bundle.application import Application
from deploy.engines import BuildPlan, EngineError, engine, engines
from deploy.engines.base import load_plan, save_plan, size_bytes
from deploy.engines.cuda import detect_compute_capability
from deploy.engines.served import Served, open_served
from deploy.files import FULL
from deploy.measure import clocks, conditions, footprint, load
from deploy.measure.path_times import time_path_block
from deploy.measure.timing import time_block
from deploy.processing import whole
from deploy.processing.preprocessing.base import Prepared
from deploy.processing.raws import Raw
from profiles.device import facts
from profiles.errors import UserError, one_line

REQUESTS = (
    "facts",
    "build",
    "open",
    "infer",
    "warm",
    "peak",
    "describe",
    "time_path",
    "time",
    "time_models",
    "conditions",
    "look",
    "cool",
    "energy",
    "lock_clocks",
)
"""The methods of a worker that a request may name."""


class Worker:
    """The handlers of all requests; holds at most one opened engine."""

    def __init__(self) -> None:
        self._served: Served | None = None
        self._clocks: clocks.ClockLock | None = None
        self._application: Application | None = None
        self._raws: list[Raw] = []

    def facts(self) -> dict[str, Any]:
        """Return this machine's facts, and the engines that can run on it."""
        usable = {name: asdict(engine(name).affinity()) for name in engines()}
        return {"device": replace(facts(), compute_capability=detect_compute_capability()).as_json(), "engines": usable}

    def build(self, model: str, plan: dict[str, Any], folder: str) -> dict[str, Any]:
        """Build an engine from an ONNX file into an empty folder."""
        decided, out = BuildPlan(**plan), Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        runtime = engine(decided.engine)
        runtime.build(Path(model), decided, out)
        save_plan(out, decided)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "size_bytes": size_bytes(out), "remark": runtime.remark(out, decided)}

    def open(self, folder: str) -> dict[str, Any]:
        """Open an engine's folder; of an engine with states, the inputs that are none are told.

        The first time in a process, ``load_ms`` has the import of the runtime in it.
        """
        plan = load_plan(Path(folder))
        self._application, self._served = None, None  # two at once may be more than a board holds
        started = time.perf_counter()
        self._served = open_served(Path(folder), plan)
        load_ms = 1000 * (time.perf_counter() - started)
        inputs = [asdict(spec) for spec in self._served.inputs]
        return {"inputs": inputs, "batch": plan.batch, "threads": plan.threads, "load_ms": load_ms}

    def infer(self, inputs: str, outputs: str, every: bool | None = None) -> dict[str, Any]:
        """Run every sample or sequence of an .npz of inputs, batch by batch; the outputs go to another .npz."""
        served = self._opened()
        with np.load(inputs, allow_pickle=False) as stored:
            feed = {name: stored[name] for name in served.names}
        np.savez(outputs, **served.infer(feed, every=every))  # type: ignore[arg-type]
        return {"samples": len(feed[served.names[0]])}

    def warm(self, inputs: str) -> dict[str, Any]:
        """Bind the first batch of an .npz as the input of ``time``, and run it once."""
        served = self._opened()
        with np.load(inputs, allow_pickle=False) as stored:
            served.session.bind(served.first({name: stored[name] for name in served.names}))
        started = time.perf_counter()
        served.session.run()
        return {"first_ms": 1000 * (time.perf_counter() - started)}

    def peak(self) -> dict[str, Any]:
        """Return the most MiB that were resident in this process at once."""
        return {"peak_mib": footprint.peak_mib()}

    def describe(self, folder: str) -> dict[str, Any]:
        """Read what is before and after the opened engine, and raw samples, for ``time_path``."""
        try:
            self._raws = raw_samples.read(Path(folder))
        except ValueError as error:
            raise UserError(str(error)) from None
        self._application = Application(self._opened(), whole.load(Path(folder)))
        return {"samples": len(self._raws)}

    def time_path(self, seconds: float) -> dict[str, Any]:
        """Time one warmed block of raw samples to answers."""
        model = self._application
        if model is None:
            raise UserError("no processing is described; send 'describe' first")

        def run(prepared: Prepared) -> tuple[Any, Prepared]:
            return model.run(prepared), prepared

        prepare, answer = model.processing.prepare, lambda ran: model.answer(*ran)
        try:
            return {"rows": time_path_block(prepare, run, answer, self._raws, seconds)}
        except ValueError as error:
            raise UserError(f"the whole path cannot be timed: {one_line(str(error))}") from None

    def time(self, seconds: float) -> dict[str, Any]:
        """Time one warmed block of single inferences."""
        return asdict(time_block(self._opened().session, seconds))

    def time_models(self, models: list[str], plan: dict[str, Any], seconds: float, passes: int) -> dict[str, Any]:
        """Build, open and time many small models on random inputs; return each one's least and median milliseconds.

        In turns, ``passes`` times over, so that a moment in which the machine did something else hits no model alone; the
        medians of the passes too.
        """
        decided, random = BuildPlan(**plan), np.random.default_rng(0)
        with tempfile.TemporaryDirectory() as scratch:
            sessions = []
            for number, model in enumerate(models):
                folder = Path(scratch) / str(number)
                folder.mkdir()
                engine(decided.engine).build(Path(model), decided, folder)
                session = engine(decided.engine).open(folder, decided)
                # Never negative, as what comes out of an activation: a model's inside sees little else.
                session.bind({s.name: np.abs(random.normal(size=s.shape)).astype(s.dtype) for s in session.inputs})
                sessions.append(session)
            blocks = [[time_block(session, seconds).called for session in sessions] for _ in range(passes)]
        times = [np.concatenate(each) for each in zip(*blocks, strict=True)]
        passes_ms = [[float(np.median(block)) for block in each] for each in zip(*blocks, strict=True)]
        least, p50 = [float(t.min()) for t in times], [float(np.median(t)) for t in times]
        return {"least_ms": least, "p50_ms": p50, "passes_ms": passes_ms}

    def conditions(self) -> dict[str, Any]:
        """Return power mode, clocks, temperatures, throttling and power as they are now."""
        return conditions.read().as_json()

    def look(self, seconds: float) -> dict[str, Any]:
        """Return what else this machine does while this process sleeps."""
        return asdict(load.look(seconds))

    def cool(self, start_c: float, at_most_s: float) -> dict[str, Any]:
        """Wait while this machine is hot, and hotter than ``start_c``."""
        return {"waited_s": conditions.cool_down(start_c, at_most_s, look=lambda: conditions.read().hottest_c)}

    def energy(self, seconds: float) -> dict[str, Any]:
        """Measure millijoules of one inference, in a block that is not used for latency; None without power rails."""
        if conditions.total_mw(conditions.rails_mw()) is None:
            return {"mj": None}
        session, runs = self._opened().session, 0
        with conditions.PowerMeter() as meter:
            started = time.perf_counter()
            while (took := time.perf_counter() - started) < seconds:
                session.run()
                runs += 1
        return {"mj": None if meter.mean_mw is None else meter.mean_mw * took / runs}

    def lock_clocks(self) -> dict[str, Any]:
        """Lock the clocks until this process ends."""
        try:
            self._clocks = clocks.ClockLock()
        except clocks.ClocksError as error:
            raise UserError(f"--lock-clocks: {error}") from None
        return {}

    def close(self) -> None:
        """Restore the clocks."""
        if self._clocks is not None:
            self._clocks.close()

    def _opened(self) -> Served:
        if self._served is None:
            raise UserError("no engine is open; send 'open' first")
        return self._served


def handle_request(worker: Worker, line: str) -> dict[str, Any]:
    """Return the response to one request line."""
    try:
        act, request = _parsed(worker, line)
    except UserError as error:
        return {"error": str(error), "kind": "user"}
    try:
        return {"ok": act(**request)}
    except UserError as error:
        return {"error": str(error), "kind": "user"}
    except EngineError as error:
        return {"error": str(error), "kind": "engine"}
    except OSError as error:
        if error.errno not in FULL:
            return {"error": traceback.format_exc(), "kind": "bug"}
        return {"error": f"the device's disk is full ({error.strerror}); free some space on it", "kind": "user"}
    except Exception:
        return {"error": traceback.format_exc(), "kind": "bug"}


def _parsed(worker: Worker, line: str) -> tuple[Callable[..., dict[str, Any]], dict[str, Any]]:
    """Return the method that a request line asks for, and its arguments.

    Raises:
        UserError: it is no JSON object, or asks for what there is not; says what.
    """
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"malformed request: no JSON ({type(error).__name__})") from None
    if not isinstance(request, dict) or request.get("do") not in REQUESTS:
        known = ", ".join(REQUESTS)
        given = request.get("do") if isinstance(request, dict) else type(request).__name__
        raise UserError(f"malformed request: no such request {one_line(ascii(given), 80)}; known: {known}")
    act: Callable[..., dict[str, Any]] = getattr(worker, request.pop("do"))
    try:
        inspect.signature(act).bind(**request)
    except TypeError as error:
        raise UserError(f"malformed request: {one_line(str(error))}") from None
    return act, request


def serve(requests: TextIO = sys.stdin) -> None:
    """Answer requests until standard input ends, or nobody reads the answers any more."""
    if isinstance(requests, io.TextIOWrapper):
        requests.reconfigure(errors="replace")
    responses = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    try:
        with contextlib.suppress(BrokenPipeError):
            for line in requests:
                responses.write(json.dumps(handle_request(worker, line)) + "\n")
    finally:
        worker.close()
