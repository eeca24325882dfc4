"""A pool: one worker while it is open, none that is left behind."""

import pytest

from deploy.devices import device
from deploy.worker.pool import WorkerPool


def asked(pool):
    """The worker of one question, which it has answered."""
    with pool.worker() as worker:
        assert worker.conditions() is not None
        assert worker.process.poll() is None
    return worker


def test_while_it_is_open_one_worker_answers_all_and_then_it_is_gone():
    pool = WorkerPool(device("local"))
    with pool.open():
        with pool.open():
            first = asked(pool)
        assert first.process.poll() is None, "the outermost block is not over"
        assert asked(pool) is first
        pool.clear()
        assert first.process.poll() == 0
        second = asked(pool)
        assert second is not first and second.process.poll() is None
    assert second.process.poll() == 0


def test_closed_every_question_has_its_own():
    pool = WorkerPool(device("local"))
    first, second = asked(pool), asked(pool)
    assert first is not second and first.process.poll() == second.process.poll() == 0


def test_an_error_ends_the_worker_and_the_next_question_has_another():
    pool = WorkerPool(device("local"))
    with pool.open():
        first = asked(pool)
        with pytest.raises(KeyboardInterrupt), pool.worker():
            raise KeyboardInterrupt
        assert first.process.poll() is not None
        assert asked(pool) is not first
