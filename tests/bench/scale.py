"""A model of throughput on many GPUs, and what of it can be measured on processes of this machine.

The model is arithmetic, not a measurement: a step takes as long as the slower of reading its data and computing it; what of
the gradients' all-reduce does not fit behind the backward pass comes on top.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

GPUS = (1, 2, 4, 8, 16, 32, 64)
ON_A_HOST = 8


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Hosts of eight GPUs, by figures that their makers publish, and two assumptions.

    Attributes:
        tflops: dense bf16 of a GPU; utilisation: assumed share of it that networks reach.
        inside_gb_s, between_gb_s: a GPU's bandwidth one way to the others of its host, and to other hosts; reached: assumed.
        cores: of the host for each GPU.
        images_s: that a core decodes, crops and normalises; measured here (docs/benchmarks.md).
    """

    tflops: float = 989.0
    utilisation: float = 0.35
    inside_gb_s: float = 450.0
    between_gb_s: float = 50.0
    reached: float = 0.7
    cores: int = 12
    images_s: float = 944.0


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A teacher and its student: multiply-accumulates of an image, its parameters, and images of a step."""

    name: str
    teacher_gmacs: float
    student_gmacs: float
    student_mparams: float
    batch: int


PAIRS = (
    Pair(name="ResNet-152 to ResNet-50, 224 x 224", teacher_gmacs=11.5, student_gmacs=4.1, student_mparams=25.6, batch=4096),
    Pair(name="ViT-L/16 to ViT-S/16, 224 x 224", teacher_gmacs=61.6, student_gmacs=4.6, student_mparams=22.1, batch=4096),
)


def all_reduce_s(bytes_: float, gpus: int, cluster: Cluster) -> float:
    """Return the seconds of a ring over ``gpus``: 2 (n - 1) / n of the bytes through its slowest link."""
    if gpus == 1:
        return 0.0
    gb_s = cluster.inside_gb_s if gpus <= ON_A_HOST else cluster.between_gb_s
    return 2 * (gpus - 1) / gpus * bytes_ / (1e9 * gb_s * cluster.reached)


def images_per_second(pair: Pair, gpus: int, cluster: Cluster) -> tuple[float, str]:
    """Return the images a second on so many GPUs, and what bounds them.

    A multiply-accumulate is two operations; the student's backward pass is two of its forward passes, and the gradients,
    float32, travel while it runs.
    """
    flops, own = 1e12 * cluster.tflops * cluster.utilisation, pair.batch / gpus
    forward_s = 2e9 * own * pair.student_gmacs / flops
    teacher_s = 2e9 * own * pair.teacher_gmacs / flops
    exchange_s = all_reduce_s(4e6 * pair.student_mparams, gpus, cluster)
    compute_s = teacher_s + forward_s + max(2 * forward_s, exchange_s)
    data_s = own / (cluster.cores * cluster.images_s)
    bound = "data" if data_s > compute_s else "all-reduce" if exchange_s > 2 * forward_s else "compute"
    return pair.batch / max(data_s, compute_s), bound


def table(cluster: Cluster | None = None) -> str:
    """Return the model's table as docs/scale.md has it."""
    lines = ["| GPUs | " + " | ".join(pair.name for pair in PAIRS) + " |", "|---|" + "---|" * len(PAIRS)]
    for gpus in GPUS:
        found = [images_per_second(pair, gpus, cluster or Cluster()) for pair in PAIRS]
        lines.append(f"| {gpus} | " + " | ".join(f"{speed:,.0f} images/s ({bound})" for speed, bound in found) + " |")
    return "\n".join(lines)


def measure() -> None:
    """Time a training in this process, one of several: print its processor seconds a step, and an all-reduce's least time.

    Run by ``torchrun --nproc_per_node=N -m tests.bench.scale``. Seconds are the processor's: others use the machine too.
    """
    import io
    import tempfile
    from pathlib import Path

    import torch

    from compress.data.base import ArraySamples
    from compress.execution import distributed
    from compress.execution.progress import StreamProgress
    from compress.methods.distillation.objective import Objective, parse_losses
    from compress.models.resnet import resnet
    from compress.tasks.classification import Classification
    from compress.training.schedule import Schedule
    from compress.training.trainer import Trainer

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    samples = ArraySamples(rng.normal(size=(512, 3, 32, 32)).astype(np.float32), rng.integers(0, 10, 512))
    student, teacher = resnet(blocks=3), resnet(blocks=9).eval()
    trainer, example = Trainer(0, StreamProgress(io.StringIO())), torch.zeros(2, 3, 32, 32)
    objective = Objective(parse_losses(["task", "kd"]), Classification(), student, teacher, example, len(samples))
    steps: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        result = trainer.fit("scale", student, objective, samples, Schedule(epochs=3, batch_size=128), Path(folder))
        steps.append((time.process_time() - begun) / result.steps)
    gradients, times = torch.zeros(sum(p.numel() for p in student.parameters())), [0.0]
    if distributed.count() > 1:
        times = [_timed_all_reduce(gradients) for _ in range(30)]
    told = f"process {distributed.index()} of {distributed.count()}: {steps[0]:.3f} s of the processor a step of 128 images"
    print(f"{told}; all-reduce of {4 * gradients.numel() / 2**20:.2f} MiB {1000 * min(times):.2f} ms", flush=True)


def _timed_all_reduce(values: object) -> float:
    import torch

    torch.distributed.barrier()
    started = time.perf_counter()
    torch.distributed.all_reduce(values)  # type: ignore[arg-type]
    return time.perf_counter() - started


if __name__ == "__main__":
    measure()
