"""Agreement of an engine with its module: parity, and where the two part."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy.typing as npt
import onnx

from compress.pipeline.exports import MODEL, Exporter, Variant
from compress.tasks import Predict
from deploy.engines import BuildPlan
from deploy.engines.inputs import Inputs, Sequences, as_feed, input_names, rows
from deploy.export.divergence import LEAST_COSINE, first_divergence
from deploy.measure.parity import Parity, first_step_apart, parity
from deploy.worker.pool import WorkerPool

PARTING_SAMPLES = 4
SEQUENCES = 32
"""Whose every step is compared."""


@final
class Agreement:
    """Comparisons of the engines of a run with their modules.

    Args:
        pool: of workers on the device.
        files: what the engines were built from.
        plan: of a variant's engine.
    """

    def __init__(self, pool: WorkerPool, files: Exporter, plan: Callable[[Variant], BuildPlan]) -> None:
        self._pool, self._files, self._plan = pool, files, plan

    def compare(
        self, variant: Variant, engine: Path, reference: Predict, inputs: Inputs, outputs: npt.NDArray[Any]
    ) -> tuple[Parity, str | None]:
        """Compare an engine's first output with its module's; say where they part, None where they agree.

        Args:
            engine: its folder.
            outputs: of the engine for ``inputs``; sequences are run again, for the outputs of every step.
        """
        if isinstance(inputs, Sequences):
            return self._along_sequences(variant, engine, reference, inputs)
        agreement = parity(reference(inputs)[0], outputs)
        if agreement.cosine >= LEAST_COSINE[variant.precision]:
            return agreement, None
        return agreement, self._parted(variant, rows(inputs, slice(PARTING_SAMPLES)))

    def _along_sequences(
        self, variant: Variant, engine: Path, reference: Predict, inputs: Sequences
    ) -> tuple[Parity, str | None]:
        """Compare all steps of whole sequences; say from which step on they are further apart than the precision's."""
        few: Sequences = rows(inputs, slice(SEQUENCES))
        expected = reference(Sequences(few, few.states, every=True))[0]
        with self._pool.worker() as worker:
            names = input_names(worker.open(engine))
            found = next(iter(worker.infer(as_feed(few, names), every=True).values()))
        return parity(expected, found), first_step_apart(expected, found, LEAST_COSINE[variant.precision])

    def _parted(self, variant: Variant, inputs: Inputs) -> str | None:
        """Find the first tensor at which the engine differs from the float model; None where none does or none is seen."""
        plan = self._plan(variant)
        if plan.format.exporter or variant.made.recipe is not None:
            return None  # only ONNX files can be looked into; one trained in int8 has no float file with the same weights
        plain = onnx.load(str(self._files.exported(variant.made).folder / MODEL))
        built = onnx.load(str(self._files.path(variant, plan)))

        def run(model: onnx.ModelProto, given: Inputs) -> dict[str, npt.NDArray[Any]]:
            with tempfile.TemporaryDirectory() as scratch, self._pool.worker() as worker:
                onnx.save(model, str(Path(scratch) / MODEL))
                worker.build(Path(scratch) / MODEL, plan, Path(scratch) / "engine")
                names = input_names(worker.open(Path(scratch) / "engine"))
                return worker.infer(as_feed(given, names))

        divergence = first_divergence(plain, built, run, inputs, variant.precision)
        return None if divergence is None else str(divergence)
