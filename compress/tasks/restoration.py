"""Restoration: a value for each pixel, as in super-resolution, denoising and depth; peak signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from compress.data import Samples, Splits
from compress.tasks.base import Metric, Predict, Task, first_output, first_shape, readable_batches, split_faults
from deploy.engines.inputs import not_finite
from profiles.errors import UserError

CHUNK = 16
MOST_DB = 100.0
"""Ratio of outputs that are exact, and of all that are better than this."""

LUMINANCE = (65.481 / 255, 128.553 / 255, 24.966 / 255)
"""Weights of red, green and blue in the Y of ITU-R BT.601, of which super-resolution is judged; its offset cancels out."""

WINDOW, SPREAD = 11, 1.5
"""Pixels a side, and deviation, of the Gaussian under which SSIM compares."""

SMOOTH = 1e-3
"""Charbonnier's: below it an error counts by its square."""


@final
class Restoration(Task):
    """Restoration: outputs (samples, channels, height, width) as the targets are; NaN in a target stands for no value.

    The metric is the peak signal-to-noise ratio in decibels, 10 log10(peak^2 / mean square error) of each sample, their
    mean, at most 100; a point of a budget is a decibel. Beside it stand SSIM (Wang et al. 2004, a Gaussian of 11 pixels,
    where no value is missing) and the root mean square error of all values, in their unit.

    Args:
        error: what is trained: "l1", "l2", "huber" (beyond ``peak`` / 10 linear) or "charbonnier" (a smooth l1).
        peak: largest value of a target: 1 for images, the range for depth.
        border: pixels at each edge that are not judged, as is usual in super-resolution.
        luminance: whether red, green and blue are judged by their luminance alone.
    """

    metric = "PSNR"
    unit = "dB"
    agreement = "max_abs"
    scale = MOST_DB
    stage_losses = {"distill": ("task", "l1"), "recovery": ("task", "l1")}

    def __init__(
        self,
        *,
        error: Literal["l1", "l2", "huber", "charbonnier"] = "l1",
        peak: float = 1.0,
        border: int = 0,
        luminance: bool = False,
    ) -> None:
        faults = [f"[task] peak is the largest value of a target, above 0; given: {peak}"] if peak <= 0 else []
        faults += [f"[task] border is a number of pixels, 0 or more; given: {border}"] if border < 0 else []
        if faults:
            raise UserError(*faults)
        self._error, self._peak, self._border, self._luminance = error, peak, border, luminance

    def check(self, splits: Splits) -> None:
        if faults := split_faults(splits, self._faults_of):
            raise UserError(*faults)

    def check_outputs(self, outputs: Any, splits: Splits) -> None:
        expected = (2, *splits.train.load(np.arange(1)).targets.shape[1:])
        given = first_shape(outputs)
        if given != expected:
            raise UserError(f"gives {given} for two samples; restoration of these targets reads {expected}")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Compute the mean error over the values that are there."""
        known = ~targets.isnan()
        apart = torch.where(known, self.logits(outputs) - targets.nan_to_num(), torch.zeros((), dtype=targets.dtype))
        zero = torch.zeros_like(apart)
        if self._error == "huber":
            errors = functional.huber_loss(apart, zero, reduction="none", delta=self._peak / 10)
        elif self._error == "charbonnier":
            errors = (apart.square() + SMOOTH**2).sqrt() - SMOOTH
        else:
            errors = apart.abs() if self._error == "l1" else apart.square()
        return errors.sum() / known.sum().clamp(min=1)

    def logits(self, outputs: Any) -> Tensor:
        """Return the first tensor of the outputs, for losses on values (l1, l2, huber); there are no class scores."""
        return first_output(outputs)

    def postprocessing(self, splits: Splits) -> Mapping[str, Any]:
        return {"use": "picture" if "white" in splits.preprocessing else "values"}

    def evaluate(self, predict: Predict, samples: Samples) -> Metric:
        return self.evaluate_samples(predict, samples)[0]

    def evaluate_samples(self, predict: Predict, samples: Samples) -> tuple[Metric, npt.NDArray[Any]]:
        ratios: list[float] = []
        likeness: list[float] = []
        total, values = 0.0, 0
        for batch in samples.batches(CHUNK):
            found = np.asarray(predict(batch.inputs)[0], np.float64)
            pairs = zip(self._judged(found), self._judged(batch.targets.astype(np.float64)), strict=True)
            for ours, wanted in pairs:
                known = ~np.isnan(wanted)
                squares = (ours[known] - wanted[known]) ** 2
                total, values = total + float(squares.sum()), values + squares.size
                ratios.append(decibels(float(squares.mean()) if squares.size else 0.0, self._peak))
                if known.all() and min(wanted.shape[-2:]) >= WINDOW:
                    likeness.append(structural_similarity(ours, wanted, self._peak))
        others = {"RMSE": float(np.sqrt(total / max(1, values)))}
        others["standard error"] = float(np.std(ratios) / np.sqrt(len(ratios)))
        others |= {"SSIM": float(np.mean(likeness))} if likeness else {}
        value = max(0.0, float(np.mean(ratios)))
        found_on = Metric(name=self.metric, value=value, unit=self.unit, samples=len(samples), others=others)
        return found_on, np.array(ratios) / MOST_DB

    def _judged(self, images: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What of images (samples, channels, height, width) is judged: without borders, luminance in place of colours."""
        edge = self._border
        inner: npt.NDArray[np.float64] = images[..., edge : images.shape[-2] - edge, edge : images.shape[-1] - edge]
        if self._luminance and images.shape[1] == 3:
            inner = np.einsum("nchw,c->nhw", inner, np.array(LUMINANCE))[:, None]
        return inner

    def _faults_of(self, name: str, samples: Samples) -> list[str]:
        unreadable: list[str] = []
        above, known = -np.inf, 0
        for batch in readable_batches(samples, CHUNK, unreadable):
            if batch.targets.ndim != 4 or batch.targets.dtype.kind != "f":
                words = "restoration reads float values (samples, channels, height, width)"
                return [f"data: the {name} split has targets of {batch.targets.dtype} {batch.targets.shape}; {words}"]
            if not_finite(batch.inputs) or np.isinf(batch.targets).any():
                return [f"data: the {name} split holds NaN in an input, or infinity"]
            there = batch.targets[~np.isnan(batch.targets)]
            above, known = max(above, float(there.max(initial=-np.inf))), known + there.size
        if unreadable:
            return unreadable
        faults = [] if known else [f"data: the {name} split has no value in any target"]
        if above > 1.001 * self._peak:
            faults.append(f"data: the {name} split has targets up to {above:g}, above peak = {self._peak:g} of [task] kind")
        height, width = samples.load(np.arange(1)).targets.shape[-2:]
        if 2 * self._border >= min(height, width):
            faults.append(f"[task] border of {self._border} pixels leaves nothing of targets of {width}x{height}")
        return faults


def decibels(square_error: float, peak: float) -> float:
    """Compute the peak signal-to-noise ratio of a mean square error, in decibels, at most ``MOST_DB``."""
    return float(10 * np.log10(peak**2 / max(square_error, peak**2 * 10 ** (-MOST_DB / 10))))


def structural_similarity(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], peak: float) -> float:
    """Compute SSIM of images (channels, height, width), the mean over channels and all whole windows (Wang et al. 2004)."""
    at = np.arange(WINDOW) - WINDOW // 2
    curve = np.exp(-(at**2) / (2 * SPREAD**2))
    kernel = torch.from_numpy(np.outer(curve, curve) / curve.sum() ** 2)[None, None]
    x, y = (torch.from_numpy(np.ascontiguousarray(each))[:, None] for each in (a, b))
    maps = functional.conv2d(torch.cat([x, y, x * x, y * y, x * y]), kernel)
    mean_x, mean_y, xx, yy, xy = maps.chunk(5)
    small, smaller = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    shared = (2 * mean_x * mean_y + small) * (2 * (xy - mean_x * mean_y) + smaller)
    apart = (mean_x**2 + mean_y**2 + small) * (xx - mean_x**2 + yy - mean_y**2 + smaller)
    return float((shared / apart).mean())
