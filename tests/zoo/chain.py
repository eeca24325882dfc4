"""One network through every stage, in a process of its own: ``python -m tests.zoo.chain NETWORK RECORD``.

Load, export, parity on two runtimes, then prune -> low_rank -> int8 without any training, and the replay of the plan that
is left. What a step found is written as soon as it ends, so that a process that is killed leaves what it had.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from compress.execution.progress import StreamProgress
from compress.methods.quantization.fake_quantize import QuantizedProgram
from compress.methods.quantization.post_training import ModuleQuantizer
from compress.methods.reparameterisation.branches import fold_branches, has_branches
from compress.models import plan as plans
from compress.models.inputs import as_tensors, call
from compress.models.layers import flat_tensors
from compress.stages import prune
from compress.stages.base import Artifact, Context, Stage
from compress.stages.low_rank import LowRank
from compress.stages.quantize import QuantizeStage, integer_recipe
from compress.stages.runner import run_stage
from compress.tasks.classification import Classification
from compress.training.trainer import Trainer
from deploy.engines import engine
from deploy.engines.inputs import Inputs, as_feed, padded
from deploy.export.to_onnx import capture, to_onnx
from deploy.files import write_atomically
from deploy.measure.parity import parity
from deploy.qdq.insert import insert
from profiles.device import load as load_profile
from profiles.errors import UserError, first_line
from profiles.quantization import QUANTIZATION
from tests.zoo import material
from tests.zoo.limits import OutOfTimeError, limit
from tests.zoo.networks import NETWORKS

RATIO, KEEP, LARGEST_ERROR = 0.25, 0.5, 0.99
"""Random weights have no small singular values: a factor of theirs misses more than that of a trained layer."""
RUNTIMES = ("onnxruntime", "openvino")
SECONDS = 300
Found = dict[str, Any]


class Chain:
    """A network on its way; each step leaves what it found in ``record``."""

    def __init__(self, name: str, keep: Callable[[Found], None]) -> None:
        self.network = NETWORKS[name]
        self._keep = keep
        self.record: Found = {"network": name, "steps": {}}
        self.profile = load_profile("cpu")

    def run(self) -> None:
        """Take the steps; a network that does not load or run has no others."""
        if not self._step("load", self._load):
            return
        if self._step("export", self._export):
            for runtime in RUNTIMES:
                self._step(runtime, lambda runtime=runtime: self._parity(runtime))
        self.context = self._context()
        self._step("prune", self._prune)
        self._step("low_rank", lambda: self._stage(LowRank(by="macs", keep=KEEP, largest_error=LARGEST_ERROR, epochs=0)))
        self._step("int8", self._quantize)
        self._step("replay", self._replay)

    def _step(self, name: str, take: Callable[[], Found]) -> bool:
        """Take a step, and keep what it found, the reason of its refusal, or its traceback; with its seconds."""
        wall, processor = time.perf_counter(), time.process_time()
        late = False
        try:
            found = {"state": "done", **take()}
        except UserError as error:
            found = {"state": "refused", "reason": "; ".join(error.faults)}
        except OutOfTimeError as error:
            found, late = {"state": "late", "reason": str(error)}, True
        except Exception as error:
            frames = [
                f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
            ]
            reason = f"{type(error).__name__}: {first_line(error, 300)}"
            found = {"state": "traceback", "reason": reason, "frames": frames[-8:]}
        seconds = {"wall_s": time.perf_counter() - wall, "processor_s": time.process_time() - processor}
        self.record["steps"][name] = {**found, **{key: round(value, 2) for key, value in seconds.items()}}
        self._keep(self.record)
        if late:
            sys.exit(0)
        return found["state"] == "done"

    def _load(self) -> Found:
        plan = material.plan_of(self.network)
        module = plan.build()
        material.enliven(module, self.network)
        self.example = material.example(self.network)
        self.test: Inputs = material.inputs(self.network, material.TESTED, 2)
        if has_branches(module):
            fold, module, _ = fold_branches(module, self.example)
            plan = plan if fold is None else plan.followed_by(fold)
        self.artifact = Artifact(plan=plan, module=module)
        outputs = self._outputs(module)
        assert all(np.isfinite(output).all() for output in outputs), "the outputs are not finite"
        return {"parameters": sum(p.numel() for p in module.parameters()), "outputs": [list(o.shape) for o in outputs]}

    def _export(self) -> Found:
        self.model = to_onnx(capture(self.artifact.module, self.example))
        return {"nodes": len(self.model.graph.node)}

    def _parity(self, runtime: str, precision: str = "fp32") -> Found:
        return self._compare(self.model, runtime, precision, self._outputs(self.artifact.module))

    def _compare(self, model: onnx.ModelProto, runtime: str, precision: str, expected: list[Any]) -> Found:
        """Compare a runtime's outputs with the module's, on the least alike of them."""
        made = engine(runtime)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            onnx.save(model, str(folder / "model.onnx"))
            (folder / "engine").mkdir()
            plan = made.plan(self.profile, precision, made.affinity().version)
            try:
                made.build(folder / "model.onnx", plan, folder / "engine")
                session = made.open(folder / "engine", plan)
            except Exception as error:  # what a runtime refuses, it says in its own way
                raise UserError(f"{runtime} refuses the model: {first_line(error, 300)}") from error
            names, batch = [spec.name for spec in session.inputs], session.inputs[0].shape[0]
            answers = [
                list(session.infer(as_feed(padded(self.test, start, batch), names)).values())
                for start in range(0, material.TESTED, batch)
            ]
        outputs = [np.concatenate(parts)[: material.TESTED] for parts in zip(*answers, strict=True)]
        distances = [parity(ours, theirs) for ours, theirs in zip(expected, outputs, strict=True)]
        return {"cosine": min(each.cosine for each in distances), "largest": max(each.max_abs for each in distances)}

    def _context(self) -> Context:
        data = material.splits(self.network)
        progress = StreamProgress(sys.stderr)
        scratch = Path(tempfile.mkdtemp())
        return Context(
            task=Classification(),
            data=data,
            teacher=copy.deepcopy(self.artifact.module),
            profile=self.profile,
            trainer=Trainer(0, progress),
            progress=progress,
            example=self.example,
            folder=scratch / "unfinished",
            outputs=scratch / "outputs",
            quantization=ModuleQuantizer(integer_recipe(self.profile), self.example, data.calibration),
        )

    def _stage(self, stage: Stage) -> Found:
        result, _ = run_stage(stage, self.artifact, self.context, 0)
        before = len(self.artifact.plan.operations)
        self.artifact = result.artifact
        kept = sum("keeps its channels" in note for note in result.notes)
        if len(self.artifact.plan.operations) == before:
            raise UserError(*result.notes[:2])
        return {"notes": list(result.notes)[:12], "left": kept, "chosen": len(result.choices)}

    def _prune(self) -> Found:
        before = self.artifact.module
        with _timed(prune, "rank_groups", "cut") as seconds:
            found = self._stage(prune.Prune(ratio=RATIO, epochs=0))
        sizes = [sum(p.numel() for p in module.parameters()) for module in (self.artifact.module, before)]
        return {**found, "share": 1 - sizes[0] / sizes[1], "cutting_s": {k: round(v, 2) for k, v in seconds.items()}}

    def _quantize(self) -> Found:
        found = self._stage(QuantizeStage(ranges="norm", biases=True, epochs=0))
        module = self.artifact.module
        assert isinstance(module, QuantizedProgram)
        recipe = QUANTIZATION[integer_recipe(self.profile) or ""]
        model = insert(to_onnx(module.float_program()), module.placement, module.scales(), recipe)
        runtime = next(r.engine for r in self.profile.runtimes if r.quantization == integer_recipe(self.profile))
        compared = self._compare(model, runtime, "int8", self._outputs(module))
        return {**found, **compared, "runtime": runtime, "layers": len(module.placement.weights)}

    def _replay(self) -> Found:
        expected = self._outputs(self.artifact.module)
        with tempfile.TemporaryDirectory() as scratch:
            plans.save(Path(scratch), self.artifact.plan, self.artifact.module)
            _, again = plans.load(Path(scratch), trust=True)
        equal = all(np.array_equal(a, b) for a, b in zip(expected, self._outputs(again), strict=True))
        return {"equal": equal, "operations": [operation.name for operation in self.artifact.plan.operations]}

    def _outputs(self, module: torch.nn.Module) -> list[Any]:
        with torch.no_grad():
            outputs = flat_tensors(call(module.eval(), as_tensors(self.test)))
        return [tensor.float().numpy() for tensor in outputs]


@contextmanager
def _timed(module: Any, *names: str) -> Iterator[Mapping[str, float]]:
    """Add up the processor seconds of functions of a module while the context is open."""
    seconds = dict.fromkeys(names, 0.0)
    own = {name: getattr(module, name) for name in names}

    def timing(name: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            try:
                return own[name](*args, **kwargs)
            finally:
                seconds[name] += time.process_time() - started

        return run

    for name in names:
        setattr(module, name, timing(name))
    try:
        yield seconds
    finally:
        for name in names:
            setattr(module, name, own[name])


def main(name: str, path: Path) -> None:
    warnings.filterwarnings("ignore")
    limit(SECONDS)
    torch.set_num_threads(1)
    Chain(name, lambda record: write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())).run()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
