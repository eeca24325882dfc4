"""What a quarter of each group's channels is of networks' parameters; run by ``EDGE_ZOO``'s Python.

``python -m tests.bench.shares_of SECONDS NETWORK ...`` prints a line of JSON for each by ours and by Torch-Pruning, which is
asked for the same, rounded to 8. Each is made in a process of its own, that is ended after so many seconds.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.methods.pruning.channels import rank_groups
from compress.methods.pruning.cutting import cut
from compress.methods.pruning.faithfulness import find_unfaithfulness
from compress.methods.pruning.operations import Narrow
from compress.models.layers import flat_tensors
from tests.bench import torch_pruning
from tests.bench.torch_pruning import MULTIPLE, RATIO

Way = Callable[[nn.Module, Tensor], dict[str, Any]]


def build(network: str) -> tuple[nn.Module, Tensor]:
    """Build ``LIBRARY:NAME``, or ``LIBRARY:NAME:SIZE`` of the input's side."""
    library, name, *size = network.split(":")
    torch.manual_seed(0)
    if library == "torchvision":
        import torchvision

        module = getattr(torchvision.models, name)(weights=None)
    elif library == "ultralytics":
        from ultralytics import YOLO

        module = YOLO(f"{name}.yaml").model.float()
    else:
        import timm

        module = timm.create_model(name)
    side = int(size[0]) if size else 224
    return module.eval(), torch.randn(2, 3, side, side)


def ours(module: nn.Module, example: Tensor) -> dict[str, Any]:
    """Cut by ours: the share that goes, processor seconds, groups left whole, and whether replay and masking agree."""
    started = time.process_time()
    groups, _ = rank_groups(module, example)
    operation, notes = cut(module, example, groups, RATIO, MULTIPLE)
    seconds = time.process_time() - started
    assert operation is not None
    small = operation.apply(copy.deepcopy(module))
    again = Narrow.from_json(json.loads(json.dumps(vars(operation)))).apply(copy.deepcopy(module))
    with torch.no_grad():
        pairs = zip(flat_tensors(small(example)), flat_tensors(again(example)), strict=True)
        equal = all(torch.equal(one, other) for one, other in pairs)
    faithful = not find_unfaithfulness(module, operation, example)
    return {"share": _share(small, module), "seconds": seconds, "whole": len(notes), "equal": equal, "faithful": faithful}


def theirs(module: nn.Module, example: Tensor) -> dict[str, Any]:
    """Cut by Torch-Pruning: the share that goes and processor seconds."""
    heads = [m for m in module.modules() if 1000 in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))]
    share, seconds = torch_pruning.prune(module, example, heads)
    return {"share": share, "seconds": seconds}


def _share(small: nn.Module, whole: nn.Module) -> float:
    sizes = [sum(p.numel() for p in module.parameters()) for module in (small, whole)]
    return 1 - sizes[0] / sizes[1]


def _tried(method: Way, network: str, answers: Any) -> None:
    warnings.filterwarnings("ignore")
    try:
        answers.send(method(*build(network)))
    except Exception as error:
        answers.send({"error": f"{type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"})


def _within(seconds: float, method: Way, network: str) -> dict[str, Any]:
    """Run a method in a process of its own that is ended when it takes longer."""
    processes = multiprocessing.get_context("fork")
    answers, question = processes.Pipe(duplex=False)
    process = processes.Process(target=_tried, args=(method, network, question))
    process.start()
    found: dict[str, Any] = answers.recv() if answers.poll(seconds) else {"error": f"not done after {seconds:g} s"}
    process.kill()
    process.join()
    return found


def main(seconds: float, networks: Sequence[str]) -> None:
    """Print what each network loses by each way. Both run on a small one first: what is imported then is not timed."""
    torch.set_num_threads(1)
    for method in (ours, theirs):
        small = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 1000, 3))
        method(small.eval(), torch.randn(2, 3, 8, 8))
    for network in networks:
        found = {method.__name__: _within(seconds, method, network) for method in (ours, theirs)}
        print(json.dumps({"network": network, **found}), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
