"""A desk: one worker while it is open, none that is left behind."""

import pytest

from deploy.devices import device
from deploy.worker.pool import Desk


def asked(desk):
    """The worker of one question, which it has answered."""
    with desk.worker() as worker:
        assert worker.conditions() is not None
        assert worker.process.poll() is None
    return worker


def test_while_it_is_open_one_worker_answers_all_and_then_it_is_gone():
    desk = Desk(device("local"))
    with desk.open():
        with desk.open():
            first = asked(desk)
        assert first.process.poll() is None, "the outermost block is not over"
        assert asked(desk) is first
        desk.clear()
        assert first.process.poll() == 0
        second = asked(desk)
        assert second is not first and second.process.poll() is None
    assert second.process.poll() == 0


def test_closed_every_question_has_its_own():
    desk = Desk(device("local"))
    first, second = asked(desk), asked(desk)
    assert first is not second and first.process.poll() == second.process.poll() == 0


def test_an_error_ends_the_worker_and_the_next_question_has_another():
    desk = Desk(device("local"))
    with desk.open():
        first = asked(desk)
        with pytest.raises(KeyboardInterrupt), desk.worker():
            raise KeyboardInterrupt
        assert first.process.poll() is not None
        assert asked(desk) is not first
