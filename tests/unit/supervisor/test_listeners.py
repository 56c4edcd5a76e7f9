"""supervisor/listeners.py"""

from __future__ import annotations

import os
import socket

import pytest

from fastmesh.supervisor.listeners import BindError, Sets
from helpers import free_port


def opened() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_each_set_has_every_listener_and_shares_its_ports() -> None:
    a, b = free_port(), free_port()
    sets = Sets([("a", "127.0.0.1", a), ("b", "127.0.0.1", b)], 3)
    assert [[name for name, _ in sets.of(row)] for row in range(3)] == [["a", "b"]] * 3
    for row in range(3):
        for (_, fd), port in zip(sets.of(row), (a, b), strict=True):
            with socket.socket(fileno=os.dup(fd)) as sock:
                assert sock.getsockname() == ("127.0.0.1", port)
                assert not os.get_inheritable(fd) and not os.get_blocking(fd)
    sets.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", a), timeout=5)


def test_a_failure_leaves_nothing_open() -> None:
    good, taken = free_port(), free_port()
    before = opened()
    said = f"cannot listen on 127.0.0.1:{taken}: the port is in use"
    with socket.create_server(("127.0.0.1", taken)), pytest.raises(BindError, match=said):
        Sets([("a", "127.0.0.1", good), ("b", "127.0.0.1", taken)], 2)
    assert opened() == before


def test_two_proxies_cannot_have_one_port() -> None:
    port = free_port()
    sets = Sets([("a", "127.0.0.1", port)], 2)
    with pytest.raises(BindError, match="in use"):
        Sets([("a", "127.0.0.1", port)], 2)
    sets.close()


def test_known_ports_are_taken_over_with_what_waits_in_their_queues() -> None:
    port = free_port()
    old = Sets([("a", "127.0.0.1", port)], 1)
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        new = Sets([("renamed", "127.0.0.1", port), ("b", "127.0.0.1", free_port())], 1, known=old)
        old.close()
        assert [name for name, _ in new.of(0)] == ["renamed", "b"]
        with socket.socket(fileno=os.dup(new.fds[0][0])) as listener:
            listener.accept()[0].close()
    new.close()


def test_closing_all_but_one_set() -> None:
    sets = Sets([("a", "127.0.0.1", free_port())], 3)
    sets.close(keep=1)
    assert [len(fds) for fds in sets.fds] == [0, 1, 0]
    sets.close()


def test_an_address_that_is_not_here() -> None:
    with pytest.raises(BindError, match=r"cannot listen on 192\.0\.2\.1:80"):
        Sets([("a", "192.0.2.1", 80)], 1)


def test_ipv6() -> None:
    port = free_port()
    try:
        sets = Sets([("a", "::1", port)], 1)
    except BindError as error:
        assert f"[::1]:{port}" in str(error)  # a machine without IPv6
        return
    socket.create_connection(("::1", port), timeout=5).close()
    sets.close()
