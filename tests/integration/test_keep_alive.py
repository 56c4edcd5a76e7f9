"""How long an upstream keeps an idle connection: what it says of that (Keep-Alive) is believed."""

from __future__ import annotations

import pytest

from helpers.worker import Upstream, serving


@pytest.mark.parametrize("value", ["timeout=1", "max=100, timeout=1", "TIMEOUT=1"])
def test_a_keep_alive_that_is_told_is_left_before_it_ends(value: str) -> None:
    """Node, gunicorn and Apache say how long they keep an idle connection: ours goes first."""
    up = Upstream()
    up.response = f"HTTP/1.1 200 OK\r\nKeep-Alive: {value}\r\nContent-Length: 2\r\n\r\nok".encode()
    with serving(up) as proxy:
        status, fields, _ = proxy.get()
        assert status == 200 and "keep-alive" not in fields
        proxy.wait_counter("up_cx_idle_timeout", 1)
        assert proxy.counter("up_cx_idle_closed") == 0
        assert proxy.get()[0] == 200 and up.connections == 2


@pytest.mark.parametrize(
    "value", ["", "timeout", "timeout=", "timeout=x", "timeout=-1", "timeout=1234567", "max=5"]
)
def test_a_keep_alive_that_says_nothing_is_ignored(value: str) -> None:
    up = Upstream()
    up.response = f"HTTP/1.1 200 OK\r\nKeep-Alive: {value}\r\nContent-Length: 2\r\n\r\nok".encode()
    with serving(up) as proxy:
        for _ in range(3):
            assert proxy.get()[0] == 200
        assert up.connections == 1
