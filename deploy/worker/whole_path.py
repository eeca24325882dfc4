"""The whole paths of several engines on one device, timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from deploy.measure.path_times import PathTimes
from deploy.measure.timing import ROUNDS
from deploy.worker.client import RemoteWorker


def race_paths(
    workers: Mapping[str, RemoteWorker], seconds: float, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, PathTimes]:
    """Time the whole path of opened and described workers, ``seconds`` of each, in ``ROUNDS`` alternating blocks."""
    times, names, orders = {name: PathTimes() for name in workers}, list(workers), np.random.default_rng(0)
    for done in range(ROUNDS):
        for index in orders.permutation(len(names)):
            name = names[index]
            times[name].blocks.append(workers[name].time_path(seconds / ROUNDS))
        progress(done + 1, ROUNDS)
    return times
