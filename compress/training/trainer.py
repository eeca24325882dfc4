"""The training loop that the teacher and every stage share, on Hugging Face accelerate.

On processors with bf16 arithmetic it runs under bf16 autocast with channels last, measured 2x faster than
the plain loop on residual networks. Samples, augmentation and dropout of a step depend on the seed and the step
alone, so a run that was killed and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from compress.data import Batch, Samples
from compress.execution import distributed
from compress.execution.progress import Progress
from compress.losses.base import TrainingStep
from compress.methods.distillation.objective import Objective
from compress.methods.distillation.query_budget import QueriedSignals
from compress.methods.packing.packed_program import PackedProgram
from compress.methods.quantization.fake_quantize import QuantizedProgram
from compress.models.inputs import ModelInputs, as_tensors, call, device_of, map_tensors
from compress.models.layers import flat_tensors
from compress.training.layout import WORTH_MEASURING_STEPS, broken_layers, faster_layout, is_broken_program, laid_out
from compress.training.loader import Batches, Part, Place
from compress.training.memory import retained_memory
from compress.training.processes import check_shared
from compress.training.schedule import Schedule
from compress.training.sharding import check_launcher, check_spreadable, is_sharded, sharded, spread_while_trained
from compress.training.state import RunState, Validate
from compress.training.teacher_cache import Signals, TeacherCache, size_bytes
from deploy.engines.inputs import Inputs, image
from deploy.engines.serving import Sizes
from deploy.files import write_atomically
from profiles.device import facts
from profiles.errors import UserError

LAYOUT = "layout"
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
"""Memory formats by what the file ``LAYOUT`` of a training holds, so that a resumed training goes on in the same."""
BRISK = 0.001
"""Rate from which SGD is doubted where nothing normalises: at 0.002 it drove SqueezeNet to zero, from a trained start."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Steps and seconds of a training, and its mean loss of the last epoch."""

    steps: int
    seconds: float
    loss: float


def fast_bf16() -> bool:
    """Return whether this machine multiplies bf16 in hardware."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(facts().flags & {"avx512_bf16", "amx_bf16", "bf16"})


@final
class Trainer:
    """Trainer of modules with one seed on this machine's accelerators or processor.

    Args:
        trackers: experiment trackers by accelerate's names (``tensorboard``, ``mlflow``, ``wandb``).
        tracked: folder of what they write.
        sizes: of models that take several; captured programs take the largest alone.
        shards_teacher: whether a teacher is spread over the processes.

    Attributes:
        numerics: what of the machine decides the bytes of a result; part of a step's key.
    """

    def __init__(
        self,
        seed: int,
        progress: Progress,
        trackers: tuple[str, ...] = (),
        tracked: Path | None = None,
        sizes: Sizes | None = None,
        *,
        shards_teacher: bool = False,
    ) -> None:
        check_launcher()
        self._seed, self._progress, self._sizes, self._shards_teacher = seed, progress, sizes, shards_teacher
        self._measured: dict[str, str] = {}
        self._accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision=_mixed_precision(),
            log_with=list(trackers) or None,
            project_dir=str(tracked) if tracked else None,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        if trackers:
            self._accelerator.init_trackers("edge-compress")
        self._tracking = bool(trackers)
        # how many processes train is no part of it: a training goes on with another number than it began with
        self.numerics = f"{self._accelerator.device.type}-{self._accelerator.mixed_precision}"

    def spread(self, teacher: nn.Module) -> nn.Module:
        """Return a teacher as it teaches in a training: spread over the processes where that was asked for."""
        return sharded(teacher, self._accelerator.device) if self._shards_teacher else teacher

    def fit(
        self,
        name: str,
        module: nn.Module,
        objective: Objective,
        samples: Samples,
        schedule: Schedule,
        folder: Path,
        *,
        validate: Validate | None = None,
        outputs: Path | None = None,
        answers: QueriedSignals | None = None,
    ) -> TrainingResult:
        """Train ``module`` in place; with a checkpoint in ``folder`` it goes on from there.

        Args:
            name: said in the progress and in errors.
            folder: where checkpoints of this training are kept until its step is done.
            validate: asked after each epoch when the schedule has patience.
            outputs: where the teacher's outputs are kept when the schedule repeats realisations.
            answers: what the teacher said of each of ``samples``; it is asked no more.

        Raises:
            UserError: the loss is not finite; the state after the last whole epoch is kept in ``folder``.
        """
        started = time.perf_counter()
        torch.manual_seed(self._seed)
        np.random.seed(self._seed % 2**32)

        def say(line: str) -> None:
            self._progress.say(f"  {name}: {line}")

        if doubt := _doubt(module, schedule):
            say(doubt)
        sizes = None if is_program(module) else self._sizes
        batches = Batches(samples, schedule, self._seed, plain=objective.needs_plain, sizes=sizes)
        probed = _has_convolutions(module) and self._accelerator.device.type == "cpu"
        apart = broken_layers(module, fast_bf16()) if probed else []
        if apart:
            say(f"{', '.join(apart)} trains contiguous: torch breaks its gradient in channels last here")
        spread = schedule.shard and distributed.count() > 1
        if spread:
            check_spreadable(name, schedule, is_program=is_program(module), reads_gradients=objective.reads_gradients)
        layout = torch.contiguous_format if spread else self._layout(name, module, batches, folder, apart)
        teacher: QueriedSignals | TeacherCache | None = answers
        if answers is None and outputs and schedule.realisations:
            teacher = TeacherCache(outputs, batches, schedule, say)
        frozen = [each for each in objective.frozen() if not is_sharded(each)]
        module.train()
        own = spread_while_trained(module, self._accelerator.device) if spread else contextlib.nullcontext()
        with self.placed(frozen if spread else [module, *frozen], layout, () if spread else apart), own:
            objective.parts.to(self._accelerator.device).train()
            run = RunState(name, module, objective.parts, schedule, batches, folder, say)
            self._go(name, module, objective, run, layout, teacher, validate)
            run.finish()
        module.eval()
        return TrainingResult(steps=run.step, seconds=time.perf_counter() - started, loss=run.mean_loss)

    def _go(
        self,
        name: str,
        module: nn.Module,
        objective: Objective,
        run: RunState,
        layout: torch.memory_format,
        teacher: QueriedSignals | TeacherCache | None,
        validate: Validate | None,
    ) -> None:
        """Run the steps that are left of a training."""
        is_whole = distributed.count() > 1 and not is_sharded(module)
        student = self._accelerator.prepare_model(module) if is_whole else module
        first = run.step
        fetched, told = run.batches.fetched(run.step), self._progress.task(name, run.steps, run.step)
        with retained_memory(), objective, fetched as steps, told as bar:
            for parts in steps:
                loss, terms = self._step(student, objective, run, parts, layout, teacher)
                if run.step == first + 1:
                    check_shared(objective.parts)
                run.check(loss, terms)
                bar.advance(1, f"loss {run.mean_loss:.3f}")
                self._track(name, run, terms)
                if run.step % run.batches.steps_an_epoch == 0 and run.end_of_epoch(validate):
                    break

    @contextmanager
    def placed(
        self,
        modules: Sequence[nn.Module],
        layout: torch.memory_format = torch.contiguous_format,
        contiguous: Sequence[str] = (),
    ) -> Iterator[None]:
        """Place modules on the accelerator, kernels in a memory format; they return to main memory however the block ends.

        Args:
            contiguous: layers of the first module that stay contiguous.
        """
        try:
            with ExitStack() as stack:
                for index, each in enumerate(modules):
                    apart = contiguous if index == 0 else ()
                    stack.enter_context(laid_out(each.to(self._accelerator.device), layout, apart))
                yield
        finally:
            for each in modules:
                each.to("cpu")

    def _layout(
        self, name: str, module: nn.Module, batches: Batches, folder: Path, apart: Sequence[str]
    ) -> torch.memory_format:
        """Choose the layout of a training: as it was begun, else channels last, or what is measured to be faster.

        Results of the two differ in their last bits, as those of two machines do, so a layout is no part of a step's key;
        networks of the same structure and batch train in the same one.
        """
        if not _has_convolutions(module) or is_broken_program(module, fast_bf16()):
            return torch.contiguous_format
        kept = folder / LAYOUT
        begun = distributed.from_main(kept.read_text(errors="replace") if distributed.is_main() and kept.exists() else "")
        if begun in LAYOUTS:
            return LAYOUTS[begun]
        if batches.steps < WORTH_MEASURING_STEPS or self._accelerator.device.type != "cpu":
            return torch.channels_last
        images = image(batches.load(Place(0, 0, 0)).inputs)
        if images is None:
            return torch.channels_last
        inputs = torch.from_numpy(images)
        words = {layout: word for word, layout in LAYOUTS.items()}
        measured = f"{[*map(str, inputs.shape)]} {module} {[(path, *p.shape) for path, p in module.named_parameters()]}"
        if measured not in self._measured:
            fastest = faster_layout(module, inputs, apart, self._accelerator.autocast)
            self._measured[measured] = distributed.from_main(words[fastest])
        chosen = self._measured[measured]
        if LAYOUTS[chosen] is torch.contiguous_format:
            self._progress.say(f"  {name}: kernels stay contiguous, which is measured to be faster than channels last")
        if distributed.is_main():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, chosen.encode())
        return LAYOUTS[chosen]

    def predictor(self, module: nn.Module) -> Callable[[Inputs], list[np.ndarray[Any, Any]]]:
        """Wrap the module in evaluation mode, fp32, on its device, as a function of arrays."""
        module.eval()
        device = next((p.device for p in module.parameters()), torch.device("cpu"))

        def predict(inputs: Inputs) -> list[np.ndarray[Any, Any]]:
            with torch.no_grad():
                outputs = call(module, map_tensors(lambda tensor: tensor.to(device), as_tensors(inputs)))
            return [output.float().cpu().numpy() for output in flat_tensors(outputs)]

        if self._sizes is None or is_program(module):
            return predict
        sizes = self._sizes
        return lambda inputs: sizes.route(inputs, lambda size, taken: predict(taken))

    def _step(
        self,
        student: nn.Module,
        objective: Objective,
        run: RunState,
        parts: list[Part],
        layout: torch.memory_format,
        kept: QueriedSignals | TeacherCache | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Take one step of the optimizer over all its parts; return the mean loss and its terms."""
        run.before_step()
        total: Tensor = torch.zeros(())
        means: dict[str, Tensor] = {}
        for part in parts:
            inputs, targets = _tensors(part.batch, self._accelerator.device, layout)
            with self._accelerator.autocast():
                moment = self._moment(part, run, layout)
                given = self._teacher(objective, (inputs, targets), part, kept, run, moment)
                loss, terms = objective(student, inputs, targets, given, moment)
            self._accelerator.backward(loss / len(parts))
            total = total + loss.detach().cpu() / len(parts)
            means = {k: means.get(k, torch.zeros(())) + v.float().cpu() / len(parts) for k, v in terms.items()}
        distributed.average_gradients(objective.parts.parameters())
        # apart: what a loss trains must not slow the student
        for trained in ([*student.parameters()], [*objective.parts.parameters()]):
            if trained:
                nn.utils.clip_grad_norm_(trained, run.schedule.clip)
        run.after_step(bool(torch.isfinite(total)))
        return total, means

    def _moment(self, part: Part, run: RunState, layout: torch.memory_format) -> TrainingStep:
        device = self._accelerator.device
        return TrainingStep(
            step=run.step,
            epoch=run.step // run.batches.steps_an_epoch,
            progress=run.step / run.steps,
            indices=torch.from_numpy(part.indices).to(device),
            plain=None if part.plain is None else _tensors(part.plain, device, layout)[0],
        )

    def _teacher(
        self,
        objective: Objective,
        batch: tuple[ModelInputs, Tensor],
        part: Part,
        kept: QueriedSignals | TeacherCache | None,
        run: RunState,
        moment: TrainingStep,
    ) -> Signals | None:
        """Return the teacher's signals for a batch, cached or computed; None to let the objective compute them."""
        if kept is None or not objective.needs_teacher_at(moment):
            return None
        teacher_signals = (
            kept.read(part.indices)
            if isinstance(kept, QueriedSignals)
            else self._kept(objective, batch, part.place, kept, run)
        )
        return {name: _moved(value, device_of(batch[0])) for name, value in teacher_signals.items()}

    def _kept(
        self, objective: Objective, batch: tuple[ModelInputs, Tensor], place: Place, kept: TeacherCache, run: RunState
    ) -> Signals:
        """Return the cached teacher signals for a batch; computed and stored when there are none yet."""
        stored = kept.read(place)
        if stored is None:
            asked = objective.teacher_signals(*batch)
            if place == Place(0, 0, 0):
                _check_room(run.folder, size_bytes(asked, run.batches, run.schedule))
            kept.keep(place, asked)
            stored = kept.read(place)
            assert stored is not None
        return stored

    def _track(self, name: str, run: RunState, terms: dict[str, Tensor]) -> None:
        if self._tracking:
            values = {f"{name}/{term}": float(value) for term, value in terms.items()}
            rate = run.schedule.rate(run.step - 1, run.steps)
            self._accelerator.log({**values, f"{name}/learning_rate": rate}, step=run.step)


def _mixed_precision() -> str:
    if fast_bf16():
        return "bf16"
    return "fp16" if torch.cuda.is_available() else "no"


def _tensors(batch: Batch, device: torch.device, layout: torch.memory_format) -> tuple[ModelInputs, Tensor]:
    def placed(tensor: Tensor) -> Tensor:
        there = tensor.to(device)
        return there.contiguous(memory_format=layout) if there.dim() == 4 and there.is_floating_point() else there

    return map_tensors(placed, as_tensors(batch.inputs)), torch.from_numpy(batch.targets).to(device)


def is_program(module: nn.Module) -> bool:
    """Say whether a module is a captured program, whose shapes are fixed."""
    return isinstance(module, QuantizedProgram | PackedProgram)


def _doubt(module: nn.Module, schedule: Schedule) -> str | None:
    """Return a warning about settings that are likely to diverge; None without one."""
    if schedule.optimizer != "sgd" or schedule.learning_rate < BRISK:
        return None
    if any("Norm" in type(layer).__name__ for layer in module.modules()):
        return None
    note = f"SGD with a rate of {schedule.learning_rate:g} can drive a network without normalisation layers to zero"
    return f'{note}; optimizer = "adamw" with a rate of 2e-4 is the safer choice'


def _has_convolutions(module: nn.Module) -> bool:
    return any(p.dim() == 4 for p in module.parameters())


def _moved(value: Any, device: torch.device) -> Any:
    return [v.to(device) for v in value] if isinstance(value, list) else value.to(device)


def _check_room(folder: Path, needed_bytes: int) -> None:
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free_bytes = shutil.disk_usage(existing).free
    if needed_bytes > 0.8 * free_bytes:
        raise UserError(
            f"keeping the teacher's outputs takes {needed_bytes / 2**30:.1f} GiB and {free_bytes / 2**30:.1f} GiB are free; "
            "lower realisations, or drop the losses that read feature maps"
        )
