"""supervisor/channel.py"""

from __future__ import annotations

import os

import pytest

from fastmesh.supervisor.channel import TEXT_CHARS, Channel, read_all, write_all


def test_messages_keep_their_borders_and_their_order() -> None:
    left, right = Channel.pair()
    assert left.send("a", 1, "x") and left.send("b")
    assert right.receive() == (("a", [1, "x"]), None)
    assert right.receive() == (("b", []), None)
    assert right.receive() is None


def test_a_descriptor_rides_along() -> None:
    left, right = Channel.pair()
    fd = os.memfd_create("t")
    write_all(fd, b"content" * 100_000)
    left.send("config", 3, fd=fd)
    os.close(fd)
    received = right.receive()
    assert received is not None
    (message, got) = received
    assert message == ("config", [3]) and got is not None
    assert read_all(got) == b"content" * 100_000
    assert not os.get_inheritable(got)
    os.close(got)


def test_the_end_of_the_other_is_told() -> None:
    left, right = Channel.pair()
    left.send("last")
    left.close()
    assert right.receive() == (("last", []), None)
    with pytest.raises(EOFError):
        right.receive()
    assert right.send("x") is False


def test_a_long_reason_is_cut_and_a_full_channel_is_no_error() -> None:
    left, right = Channel.pair()
    assert left.send("rejected", "x" * 1_000_000)
    received = right.receive()
    assert received is not None and received[0] == ("rejected", ["x" * TEXT_CHARS])
    sent = 0
    while left.send("rejected", "x" * 1000):
        sent += 1
    assert sent > 0
    for _ in range(sent):
        assert right.receive() is not None
    assert right.receive() is None
