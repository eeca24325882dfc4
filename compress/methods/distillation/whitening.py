"""Whitening initialisation of the first convolution, for a student trained for minutes from random weights.

Of Jordan's starts ("94% on CIFAR-10 in 3.29 Seconds", 2024) the one that showed (docs/benchmarks.md, ``whitening``).
Identities in the other convolutions and a faster rate for the norms' biases brought nothing beyond the noise of a seed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 0.05
"""Added to each direction's variance: what hardly varies is noise, and is not blown up to the size of the rest."""


def whiten(module: nn.Module, images: Tensor) -> nn.Conv2d | None:
    """Set the first convolution of ``module`` to whiten patches (Jordan's section 3.2, after Page 2019), in place.

    Its filters become the principal directions of the patches of ``images``, largest variance first, each over the
    deviation along it, and then the same negated, so that a ReLU loses nothing. Filters beyond the last direction stay as
    they are.

    Args:
        images: of shape (samples, channels, height, width), as the model takes them.

    Returns:
        That convolution; None where the module starts with none over all channels of ``images``.
    """
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or images.dim() != 4 or first.in_channels != images.shape[1]:
        return None
    if first.groups != 1 or first.out_channels < 2:
        return None
    patches = torch.nn.functional.unfold(images.float(), first.kernel_size, first.dilation)
    patches = patches.transpose(1, 2).flatten(0, 1)
    variances, directions = torch.linalg.eigh(torch.cov(patches.T).reshape(patches.shape[1], -1))
    count = min(first.out_channels // 2, len(variances))
    filters = (directions / (variances.clamp(min=0) + EPSILON).sqrt()).flip(1)[:, :count].T
    with torch.no_grad():
        first.weight[: 2 * count] = torch.cat([filters, -filters]).view(2 * count, *first.weight.shape[1:])
        if first.bias is not None:
            first.bias.zero_()
    return first
