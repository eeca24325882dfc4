"""A bundle as a function of raw samples: a picture's path in, its answer out. numpy, Pillow and the runtime alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, final

import numpy as np
import numpy.typing as npt

from deploy.bundle import cascade
from deploy.bundle.bundle import opened
from deploy.engines import Session
from deploy.engines.inputs import as_feed, padded
from deploy.engines.served import Served
from deploy.processing import whole
from deploy.processing.postprocessing.base import Answer
from deploy.processing.preprocessing.base import Box, Prepared
from deploy.processing.raws import Raw
from deploy.processing.whole import Processing
from profiles.errors import UserError

Outputs = list[npt.NDArray[Any]]


@final
class Application:
    """An opened engine with what is before and after it, as a function of a raw sample.

    ``model(picture)`` takes a path, a file's bytes, an image of Pillow or an array; of sounds a WAV likewise or samples, of
    texts a string; ``model(picture, box=(x, y, width, height))`` a figure with keypoints. What an answer holds is said in
    ``docs/shipping.md``. A context manager; what the engine was opened from goes with it.

    Raises:
        UserError: the engine takes other samples than the preprocessing makes.
    """

    def __init__(self, session: Session | Served, processing: Processing, kept: ExitStack | None = None) -> None:
        self._session, self.processing, self._kept = session, processing, kept or ExitStack()
        self._batch = session.inputs[0].shape[0]
        shapes = {spec.name: spec.shape for spec in session.inputs}
        if faults := processing.before.faults(shapes):
            raise UserError(*[f"preprocessing.json does not fit the model: {fault}" for fault in faults])

    def __call__(self, raw: Any, *, box: Box | None = None) -> Answer:
        """Return the answer for one raw sample.

        Raises:
            UserError: it is none that the model takes; one line.
            ValueError: the engine gives outputs that the postprocessing does not read.
        """
        prepared = self.prepare(raw, box)
        return self.answer(self.run(prepared), prepared)

    def prepare(self, raw: Any, box: Box | None = None) -> Prepared:
        """Make the model's inputs of a raw sample."""
        return self.processing.prepare(Raw(value=raw, box=None if box is None else _corners(box)))

    def run(self, prepared: Prepared) -> Outputs:
        """Return the engine's outputs for one sample, (1, ...) each."""
        if self.processing.before.any_size:
            spec = self._session.inputs[0]
            size = (spec.shape[2], spec.shape[3])
            return [whole.run_tiles(self._infer_first, prepared.inputs, size, self._batch)]
        feed = as_feed(prepared.inputs, [spec.name for spec in self._session.inputs])
        for spec in self._session.inputs:
            if feed[spec.name].shape[1:] != spec.shape[1:]:
                given = tuple(feed[spec.name].shape[1:])
                raise UserError(f"input {spec.name!r} is of {given}; the model takes {spec.shape[1:]}")
        typed = {spec.name: np.require(feed[spec.name], np.dtype(spec.dtype), ("C", "W")) for spec in self._session.inputs}
        outputs = self._session.infer(typed if self._batch == 1 else padded(typed, 0, self._batch))
        return [output[:1] for output in outputs.values()]

    def answer(self, outputs: Sequence[npt.NDArray[Any]], prepared: Prepared) -> Answer:
        """Make the answer of the engine's outputs."""
        return self.processing.answer(outputs, prepared)

    def _infer_first(self, tiles: npt.NDArray[Any]) -> npt.NDArray[Any]:
        spec = self._session.inputs[0]
        return next(iter(self._session.infer({spec.name: np.ascontiguousarray(tiles, np.dtype(spec.dtype))}).values()))

    def close(self) -> None:
        """Close the engine; the object is of no use after it."""
        self._kept.close()

    def __enter__(self) -> Application:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@final
class CascadeApplication:
    """Two applications: where the small one is unsure of its class, the large one answers.

    Attributes:
        asked, went_on: samples so far, and those of them that the large model answered.
    """

    def __init__(self, small: Application, large: Application, margin: float) -> None:
        self._small, self._large, self._margin = small, large, margin
        self.asked = self.went_on = 0

    def __call__(self, raw: Any, *, box: Box | None = None) -> Answer:
        """Return the answer for one raw sample; see ``Application``."""
        self.asked += 1
        prepared = self._small.prepare(raw, box)
        outputs = self._small.run(prepared)
        if cascade.margins(outputs[0])[0] >= self._margin:
            return self._small.answer(outputs, prepared)
        self.went_on += 1
        return self._large(raw, box=box)

    def close(self) -> None:
        """Close both engines."""
        self._small.close()
        self._large.close()

    def __enter__(self) -> CascadeApplication:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def load(folder: Path) -> Application | CascadeApplication:
    """Check every file of a bundle or of a cascade of two, build its engine here and open it. No signature is checked.

    Raises:
        UserError: it is none, a file was altered, or its processing is unknown here.
        EngineError: the runtime refused the model.
    """
    if (folder / cascade.FILE).is_file():
        margin = cascade.read_margin(folder)
        with ExitStack() as stack:
            small = stack.enter_context(_application(folder / cascade.SMALL))
            large = stack.enter_context(_application(folder / cascade.LARGE))
            stack.pop_all()
            return CascadeApplication(small, large, margin)
    return _application(folder)


def _application(folder: Path) -> Application:
    with ExitStack() as stack:
        session = stack.enter_context(opened(folder))
        processing = whole.load(folder)
        return Application(session, processing, stack.pop_all())


def _corners(box: Box) -> tuple[float, float, float, float]:
    values = tuple(float(value) for value in box)
    if len(values) != 4:
        raise UserError(f"box is x, y, width and height of a figure in pixels of the picture; given: {len(values)} numbers")
    return values[0], values[1], values[2], values[3]
