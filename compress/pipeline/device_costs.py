"""Costs of a model on the device: a latency table, or counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, final

import onnx

from compress.execution import distributed
from compress.execution.cache import digest
from compress.execution.progress import Progress, doing
from compress.methods.allocation.problem import Term
from compress.methods.cost_model import By, Costs, Coupling, FloatPrices, LayerPrice, Measured, Option
from compress.pipeline.cache_keys import code_key
from deploy.devices import Device
from deploy.engines import engine
from deploy.latency import factor_times, float_times, measure_table
from deploy.latency.stopwatch import EngineConfig, Stopwatch
from deploy.latency.table import LatencyTable, PieceCost, sum_pieces
from deploy.latency.template import Axis, Template
from deploy.onnx_graph import count
from deploy.onnx_graph.fixed_batch import fix_batch
from profiles.device import DeviceProfile, Runtime
from profiles.errors import UserError
from profiles.quantization import QUANTIZATION

COUNTS: dict[str, tuple[str, Callable[[onnx.ModelProto], int]]] = {
    "macs": ("MACs", count.count_macs),
    "params": ("parameters", count.count_parameters),
}


@final
class DeviceCostModel:
    """Cost model of one exported model on one device.

    Args:
        model: gives the float ONNX file.
        about: the device's facts as its worker told them: ``device`` and ``engines``.
        folder: of the files that keep measured pieces, for all runs.
    """

    def __init__(
        self,
        model: Callable[[], Path],
        device: Device,
        device_key: Mapping[str, Any],
        profile: DeviceProfile,
        versions: Mapping[str, str],
        folder: Path,
        progress: Progress,
    ) -> None:
        self._model, self._device, self._profile, self._versions = model, device, profile, versions
        self._device_key, self._folder, self._progress = device_key, folder, progress

    @property
    def key(self) -> Mapping[str, Any]:
        runtime = self._profile.runtimes[0]
        plans = [engine(runtime.engine).plan(self._profile, p, self._versions[runtime.engine]) for p in runtime.precisions]
        return {
            "device": dict(self._device_key),
            "plans": [plan.as_json() for plan in plans],
            "recipe": None if runtime.quantization is None else asdict(QUANTIZATION[runtime.quantization]),
            "code": code_key(type(self)),
        }

    def costs(self, couplings: Mapping[str, Coupling], blocks: Sequence[str], by: By, precision: str) -> Costs:
        axes = {name: Axis(width=c.width, sizes=c.sizes) for name, c in couplings.items()}
        template = Template(onnx.load(str(self._model())), axes, blocks, self._profile.batch)
        if by != "latency":
            return _counted(template, by)
        found = distributed.from_main(self._table(template, precision) if distributed.is_main() else None)
        assert found is not None
        table, told = found

        def measured(widths: Mapping[str, int], removed: Sequence[str]) -> float:
            return distributed.from_main(self._share(template, told, widths, removed) if distributed.is_main() else 0.0)

        return _timed(table, f"{self._profile.runtimes[0].engine} {told}", measured)

    def layers(self, options: Mapping[str, Sequence[Option]], precision: str) -> Mapping[str, LayerPrice]:
        found = distributed.from_main(self._layers(options, precision) if distributed.is_main() else None)
        assert found is not None
        return found

    def in_float(self, layers: Sequence[str], wide: Sequence[str] = ()) -> FloatPrices | None:
        return distributed.from_main(self._in_float(layers, wide) if distributed.is_main() else None)

    def _in_float(self, layers: Sequence[str], wide: Sequence[str]) -> FloatPrices | None:
        runtime = next((r for r in self._profile.runtimes if "int8" in r.precisions), None)
        if runtime is None or runtime.quantization is None or not self._from_onnx(runtime):
            return None
        try:
            model = fix_batch(onnx.load(str(self._model())), self._profile.batch)
        except UserError:
            return None
        with doing(self._progress, "layers in float"):
            clock = self.stopwatch(runtime, "int8", "layers in float", placed=True)
            recipe = QUANTIZATION[runtime.quantization]
            asked = wide if recipe.wide else ()
            found = float_times.float_layer_costs_ms(model, recipe, layers, clock, asked)
        return FloatPrices(
            whole_ms=found.whole_ms, longer_ms=found.longer_ms, wide_ms=found.wide_ms, faster_wide=found.faster_wide
        )

    def _layers(self, options: Mapping[str, Sequence[Option]], precision: str) -> dict[str, LayerPrice]:
        model, runtime = onnx.load(str(self._model())), self._runtime(precision)
        told = precision or self._fastest(Template(model, {}, (), self._profile.batch), runtime)
        sizes = factor_times.layers(model, self._profile.batch)
        asked = {path: choices for path, choices in options.items() if path in sizes}
        with doing(self._progress, "layers as factors"):
            found = factor_times.times(sizes, asked, self.stopwatch(runtime, told, "layers as factors"))
        return {path: LayerPrice(whole_ms=each.whole_ms, factors_ms=each.factors_ms) for path, each in found.items()}

    def _table(self, template: Template, precision: str) -> tuple[LatencyTable, str]:
        runtime = self._runtime(precision)
        with doing(self._progress, "latency table"):
            told = precision or self._fastest(template, runtime)
            stopwatch = self.stopwatch(runtime, told)
            table = measure_table.measure_table(template, stopwatch, self._profile.channel_multiple)
        return table, told

    def _share(self, template: Template, precision: str, widths: Mapping[str, int], removed: Sequence[str]) -> float:
        """Time of the whole model at ``widths`` without ``removed`` over its own, by turns.

        By least times: with something else on the machine a median of one of the two was a fifth too long.
        """
        clock = self.stopwatch(self._runtime(precision), precision)
        among = f"share-{digest({'widths': dict(widths), 'removed': sorted(removed)})[:20]}"
        own, left = measure_table.time_whole_models(template, clock, [({}, []), (widths, removed)], among)
        return left.least_ms / own.least_ms

    def _runtime(self, precision: str) -> Runtime:
        runtime = self._profile.runtimes[0]
        if not self._from_onnx(runtime):
            raise UserError(
                f'by = "latency": {runtime.engine} is not built from ONNX files, of which the table is cut; use by = "macs"'
            )
        if precision and precision not in runtime.precisions:
            allowed = ", ".join(runtime.precisions)
            raise UserError(f"precision {precision!r}: {runtime.engine} on this device has {allowed}")
        return runtime

    def _from_onnx(self, runtime: Runtime) -> bool:
        """Tell whether the runtime's files are made of ONNX, of which a table's pieces are cut."""
        plan = engine(runtime.engine).plan(self._profile, runtime.precisions[0], self._versions[runtime.engine])
        return plan.format.made_from == "onnx"

    def _fastest(self, template: Template, runtime: Runtime) -> str:
        clocks = {p: self.stopwatch(runtime, p) for p in runtime.precisions}
        taken = {p: measure_table.time_whole_models(template, clock, [({}, [])], "forms")[0] for p, clock in clocks.items()}
        return min(taken, key=lambda p: taken[p].least_ms)

    def stopwatch(
        self, runtime: Runtime, precision: str, about: str = "latency table", *, placed: bool = False
    ) -> Stopwatch:
        """Make a stopwatch for models on a runtime in a precision.

        Args:
            about: name of what it measures, shown beside how far it is. placed: the models have their Q/DQ pairs already.
        """
        plan = engine(runtime.engine).plan(self._profile, precision, self._versions[runtime.engine])
        integers = precision == "int8" and runtime.quantization and not placed
        recipe = QUANTIZATION[runtime.quantization] if integers and runtime.quantization else None
        decided = {**self.key, "plan": plan.as_json(), "int8": recipe is not None}
        form = EngineConfig(
            device=self._device, plan=plan, recipe=recipe, key=f"{plan.engine}-{precision}-{digest(decided)[:20]}"
        )
        return Stopwatch(form, self._folder, lambda total: self._progress.task(about, total), self._progress.say)


def _timed(table: LatencyTable, form: str, measured: Measured) -> Costs:
    terms = [_term(piece, table.factor) for piece in table.pieces]
    about = (
        f"measured on {form} from pieces of the model; the sum x {table.factor:.2f} + {table.offset_ms:.3f} ms was off by "
        f"{100 * table.error:.0f} % on whole models (median)"
    )
    return Costs(
        unit="ms",
        terms=terms,
        fixed=table.offset_ms,
        now=table.predict_ms({}),
        least=table.fastest_ms,
        about=about,
        unfollowed=table.unfollowed,
        measured=measured,
    )


def _counted(template: Template, by: str) -> Costs:
    unit, how = COUNTS[by]
    pieces = measure_table.count_table(template, how)
    full = {name: axis.width for name, axis in template.axes.items()}
    least = sum_pieces(pieces, dict.fromkeys(full, 1), list(template.blocks))
    return Costs(
        unit=unit,
        terms=[_term(piece, 1.0) for piece in pieces],
        fixed=0.0,
        now=sum_pieces(pieces, full),
        least=least,
        about="counted",
        unfollowed=template.unfollowed,
    )


def _term(piece: PieceCost, factor: float) -> Term:
    # A search asks for the same few widths thousands of times.
    at = cache(lambda widths: factor * piece.at(widths))
    return Term(groups=piece.axes, cost=lambda widths: at(tuple(widths)), block=piece.block)
