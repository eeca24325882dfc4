"""Values of a metric on samples drawn anew, which tell a difference from chance where the metric is no mean over samples.

The bootstrap over samples (Efron 1979). Draws are the same for all models that are judged on as many samples, so that the
difference of two models' values, draw by draw, is that of a pair.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.int64]
"""How often each sample was drawn, (samples,)."""
MOST_DRAWS, LEAST_DRAWS = 400, 100
WORK = 400_000_000
"""Elements that the draws of one evaluation may read together, some ten seconds; with more there are fewer draws."""


def values_of_draws(metric_of: Callable[[Weights], float], samples: int, elements: int) -> tuple[float, ...]:
    """Compute a metric on as many samples as there are, drawn with replacement, again and again.

    Args:
        metric_of: the metric on the samples drawn.
        elements: what one value reads, which bounds how many draws are affordable.

    Returns:
        A value for each of 400 draws; of fewer, 100 at least, where all would take more than seconds.

    Example: the mean of 100 numbers of deviation 1 has a standard error of 0.1:
        >>> numbers = np.repeat([-1.0, 1.0], 50)
        >>> values = values_of_draws(lambda weights: float(weights @ numbers) / 100, 100, 100)
        >>> len(values), round(float(np.std(values)), 1)
        (400, 0.1)
    """
    draws = min(MOST_DRAWS, max(LEAST_DRAWS, WORK // max(1, elements)))
    generator, shares = np.random.default_rng(0), np.full(samples, 1 / samples)
    return tuple(metric_of(generator.multinomial(samples, shares)) for _ in range(draws))


def rows_drawn(weights: Weights) -> Weights:
    """Return the rows of the samples drawn, each as often as it was."""
    return np.repeat(np.arange(len(weights)), weights)
