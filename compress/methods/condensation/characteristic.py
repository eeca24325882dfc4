"""Distance of the characteristic functions of a set's features and the data's (NCFM, 2025, paper 51)."""

from __future__ import annotations

import torch
from torch import Tensor

WEIGHT = 300.0
TINY = 1e-12
"""Below the root, whose gradient at 0 is infinite."""


def characteristic_distance(real: Tensor, made: Tensor, frequencies: Tensor) -> Tensor:
    """Compute 300 times the mean distance of empirical characteristic functions at some frequencies; zero for equal sets.

    phi(t) is the mean over samples of exp(i t.f). The distance is the root of 0.5 (|phi_r| - |phi_s|)^2, of the amplitudes,
    and 0.5 * 2 (|phi_r| |phi_s| - Re phi_r Re phi_s - Im phi_r Im phi_s), of the phases. Features are taken off the real
    mean and over the real deviation times the root of their width, so that t.f is of unit size whatever the network;
    frequencies are drawn of a normal distribution. (The paper's ones may be learned against the set, which is not here.)

    Args:
        real, made: features (samples, width) of one class.
        frequencies: (count, width).
    """
    middle, size = real.mean(dim=0), real.std(dim=0, unbiased=False).clamp_min(1e-6) * real.shape[1] ** 0.5
    (re, im), (re_made, im_made) = (_means((f - middle) / size @ frequencies.T) for f in (real, made))
    ours, theirs = (re.square() + im.square() + TINY).sqrt(), (re_made.square() + im_made.square() + TINY).sqrt()
    amplitude = (ours - theirs).square()
    phase = 2 * (ours * theirs - re * re_made - im * im_made)
    distance: Tensor = WEIGHT * ((0.5 * amplitude + 0.5 * phase).clamp_min(0) + TINY).sqrt().mean() - WEIGHT * TINY**0.5
    return distance


def _means(angles: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cos(angles).mean(dim=0), torch.sin(angles).mean(dim=0)
