"""What Torch-Pruning alone takes of a network: ``python -m tests.zoo.beside NETWORK RECORD``.

It is asked for what ours is: a quarter of each group, rounded to eight, the layers that make outputs left whole, heads of
attention told to it. What ours finds out about outputs is given to it, since it finds none itself.
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.methods.pruning.structure.coupling import find_structure
from compress.methods.pruning.structure.follower import OUTPUT
from compress.methods.reparameterisation.branches import fold_branches, has_branches
from compress.models.inputs import ModelInputs
from deploy.files import write_atomically
from profiles.errors import first_line
from tests.bench import torch_pruning
from tests.zoo import material
from tests.zoo.limits import OutOfTimeError, limit
from tests.zoo.networks import NETWORKS

SECONDS = 90


def take(module: nn.Module, example: ModelInputs) -> dict[str, Any]:
    """Prune by Torch-Pruning: the share of parameters that goes, and processor seconds; or why it fails."""
    try:
        share, seconds = torch_pruning.prune(module, example, output_layers(module, example))
    except OutOfTimeError as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {first_line(error, 160)}"}
    return {"share": share, "processor_s": round(seconds, 2)}


def output_layers(module: nn.Module, example: ModelInputs) -> list[nn.Module]:
    """List the layers that make outputs of the model."""
    fixed = find_structure(copy.deepcopy(module), example).fixed
    return [module.get_submodule(path) for path, reason in fixed.items() if reason == OUTPUT]


def main(name: str, path: Path) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    limit(SECONDS)
    network = NETWORKS[name]
    example = material.example(network)
    try:
        module = material.plan_of(network).build()
        module = fold_branches(module, example)[1] if has_branches(module) else module
        found = take(module, example)
    except OutOfTimeError as error:
        found = {"error": str(error)}
    write_atomically(path, json.dumps(found).encode())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
