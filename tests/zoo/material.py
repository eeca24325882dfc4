"""A network of the table as the stages get it: its module, brought to life, and samples that it reads."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.data import Samples, Splits
from compress.data.base import ArraySamples, NamedSamples
from compress.models.inputs import ModelInputs, as_tensors, call
from compress.models.plan import Plan
from deploy.engines.inputs import Inputs
from tests.zoo.networks import Network

CALIBRATION, TESTED = 4, 2
FAINT = 1e-2


def plan_of(network: Network) -> Plan:
    torch.manual_seed(0)
    return Plan(factory=network.factory, arguments=network.arguments)


def inputs(network: Network, count: int, seed: int) -> Inputs:
    """Draw samples: images and sounds are smooth with noise, as real ones are; texts end anywhere."""
    rng, side = np.random.default_rng(seed), network.side
    if network.reads == "tokens":
        lengths = rng.integers(side // 4, side + 1, (count, 1))
        mask = (np.arange(side) < lengths).astype(np.int64)
        return {"input_ids": rng.integers(0, network.vocabulary, (count, side)) * mask, "attention_mask": mask}
    shape = {
        "image": (3, side, side),
        "spectrum": (80, side),
        "sound": (side, 128),
        "sequence": (side, 40),
        "recording": (1, side),
    }[network.reads]
    coarse = torch.from_numpy(rng.normal(size=(count, 1, *[min(8, size) for size in shape])))
    smooth = torch.nn.functional.interpolate(coarse, shape) if len(shape) == 3 else coarse.new_zeros(count, 1, *shape)
    return (smooth[:, 0].numpy() + 0.5 * rng.normal(size=(count, *shape))).astype(np.float32)


def samples(network: Network, count: int, seed: int) -> Samples:
    drawn, labels = inputs(network, count, seed), np.zeros(count, np.int64)
    return NamedSamples(drawn, labels) if isinstance(drawn, dict) else ArraySamples(np.asarray(drawn), labels)


def splits(network: Network) -> Splits:
    calibration, test = samples(network, CALIBRATION, 1), samples(network, TESTED, 2)
    return Splits(train=calibration, calibration=calibration, validation=test, test=test, classes=())


def example(network: Network) -> ModelInputs:
    made: ModelInputs = as_tensors(inputs(network, 2, 3))
    return made


def enliven(module: nn.Module, network: Network) -> None:
    """Give what a start of zeros or of next to nothing hides a size, and batch norms the statistics of data."""
    drawn = torch.Generator().manual_seed(1)
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if _hides(name, parameter):
                spread = 0.02 if _is_matrix(parameter) else 0.3
                parameter.copy_(spread * (1 + torch.randn(parameter.shape, generator=drawn)))
        for norm in norms:
            if norm.affine:
                norm.weight.copy_(0.5 + torch.rand(norm.weight.shape, generator=drawn))
                norm.bias.copy_(0.2 * torch.randn(norm.bias.shape, generator=drawn))
        module.eval()
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        if norms:
            call(module, as_tensors(inputs(network, CALIBRATION, 4)))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    module.eval()


def _is_matrix(parameter: nn.Parameter) -> bool:
    return parameter.numel() > max(parameter.shape, default=1)


def _hides(name: str, parameter: nn.Parameter) -> bool:
    """Say whether a parameter makes nothing of what it is given: a scale that is faint, or weights that are all zero."""
    largest = float(parameter.abs().max())
    return not name.endswith("bias") and (largest == 0 or (largest < FAINT and not _is_matrix(parameter)))
