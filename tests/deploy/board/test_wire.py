"""Messages and files over descriptors, whatever pieces they come in."""

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.board.wire import ClosedError, SilentError, Wire


def pair(idle_s=5.0):
    to_b, from_a = os.pipe()
    to_a, from_b = os.pipe()
    return Wire(to_a, from_a, idle_s), Wire(to_b, from_b, idle_s), [to_b, from_a, to_a, from_b]


@given(st.lists(st.binary(max_size=300), max_size=6), st.dictionaries(st.text(), st.integers(), max_size=3))
@settings(max_examples=10, deadline=None)
def test_what_goes_in_comes_out(parts, message):
    a, b, descriptors = pair()
    a.send(message)
    a.send_chunks(parts)
    a.send(message)
    assert b.receive() == message
    assert b"".join(b.chunks()) == b"".join(parts)
    assert b.receive() == message
    for descriptor in descriptors:
        os.close(descriptor)


def test_more_than_a_pipe_holds_goes_through_while_it_is_read():
    a, b, _ = pair()
    data = os.urandom(3_000_000)
    sender = threading.Thread(target=a.send_chunks, args=([data[i : i + 70_000] for i in range(0, len(data), 70_000)],))
    sender.start()
    assert b"".join(b.chunks()) == data
    sender.join()


def test_silence_and_an_end_are_told_apart_and_neither_hangs():
    a, b, descriptors = pair(idle_s=0.05)
    with pytest.raises(SilentError):
        b.receive()
    with pytest.raises(SilentError, match="nothing taken"):
        a.send_chunks([b"x" * 10_000_000])
    os.close(descriptors[1])
    with pytest.raises(ClosedError):
        list(b.chunks())
    assert b.is_closed()
