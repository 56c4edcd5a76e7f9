"""How long an upstream keeps an idle connection: what it says of that (Keep-Alive) is believed, what it does
is learnt, and until then a request that cannot be repeated goes over none that has been idle for a while."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from helpers import servers
from helpers.paced import waves
from helpers.worker import Peer, Upstream, WorkerProxy, serving, simple_config

KEPT = 2  # seconds: of the servers


def post(proxy: WorkerProxy) -> int:
    peer = proxy.dial()
    try:
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        return peer.answer()[0]
    finally:
        peer.close()


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


def test_a_post_trusts_no_connection_of_an_endpoint_that_has_not_shown_how_long_it_keeps_them() -> None:
    up = Upstream()
    with serving(up) as proxy:
        assert proxy.get()[0] == 200
        time.sleep(0.6)
        assert post(proxy) == 200 and up.connections == 2
        assert proxy.get()[0] == 200 and up.connections == 2


def test_what_an_endpoint_has_kept_for_long_is_trusted() -> None:
    up = Upstream()
    with serving(up) as proxy:
        assert proxy.get()[0] == 200
        time.sleep(3)
        assert proxy.get()[0] == 200
        time.sleep(0.6)
        assert post(proxy) == 200 and up.connections == 1


def test_a_connection_that_is_not_trusted_makes_room_where_no_other_may_be_opened() -> None:
    up = Upstream()
    config = simple_config(up.port)
    config["clusters"][0]["max_connections"] = 1
    with serving(up, config=config) as proxy:
        for _ in range(3):
            assert proxy.get()[0] == 200
            time.sleep(0.6)
            assert post(proxy) == 200
        assert proxy.counter("up_cx_overflow") == 0 and up.connections == 4


def test_one_that_was_closed_early_is_not_held_against_the_endpoint_for_ever() -> None:
    up = Upstream()

    def handler(peer: Peer) -> None:
        if up.connections == 1:
            up.request(peer)
            peer.send(up.response)
            time.sleep(0.1)
        else:
            up.serve(peer)

    up.handler = handler
    with serving(up) as proxy:
        assert proxy.get()[0] == 200
        proxy.wait_counter("up_cx_idle_closed", 1)
        assert proxy.get()[0] == 200
        time.sleep(2)
        assert post(proxy) == 200 and up.connections == 3
        # What it left was open still: a pause longer than the first connection's life is trusted.
        time.sleep(0.2)
        assert post(proxy) == 200 and up.connections == 3


@pytest.mark.parametrize("name", servers.NAMES)
def test_no_client_sees_the_end_of_an_idle_connection(tmp_path: Path, name: str) -> None:
    """Waves of requests as long apart as the server keeps connections: it closes them as the next request
    comes. From the first one on, when nothing has been learnt, and for POST, too."""
    with servers.started(name, tmp_path, KEPT) as up, servers.edge(tmp_path, up) as (port, edge):
        seen = waves(port, KEPT + servers.TAKES, 6, ["POST", "POST", "GET"])
        assert set(seen) == {200}, seen
        ended = edge.stat("up_cx_idle_closed") + edge.stat("up_cx_idle_timeout")
        assert ended + edge.stat("rq_retry_reused") > 0, "no connection came to its end"
