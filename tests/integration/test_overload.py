"""A worker that has too much: requests in flight, memory, and how long connections wait for their turn."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from helpers import free_port, istio, wait_for
from helpers.h2raw import dial
from helpers.mesh import EdgeProxy, request
from helpers.worker import Peer, Upstream, WorkerProxy, serving, simple_config

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OM = 8192
MIB = 1 << 20


class Silent(Upstream):
    """Answers what it was asked once it may."""

    def __init__(self) -> None:
        super().__init__(self.hold)
        self.go = threading.Event()

    def hold(self, peer: Peer) -> None:
        while self.request(peer):
            self.go.wait(30)
            peer.send(self.response)


@pytest.fixture
def silent() -> Iterator[Silent]:
    made = Silent()
    yield made
    made.go.set()
    made.close()


def busy(proxy: WorkerProxy, up: Silent, n: int) -> list[Peer]:
    peers = [proxy.dial() for _ in range(n)]
    for peer in peers:
        peer.send(GET)
    wait_for(lambda: len(up.heads) == n)
    return peers


# ---- requests in flight ------------------------------------------------------------------------------


def test_more_requests_than_max_exchanges_are_503_om(silent: Silent) -> None:
    with serving(silent, options={"max_exchanges": 3}, log=True) as proxy:
        held = busy(proxy, silent, 3)
        more = proxy.dial()
        for _ in range(2):  # the connection stays
            more.send(GET)
            status, fields, body = more.answer()
            assert (status, body) == (503, b"overloaded\n") and "connection" not in fields
        record = wait_for(lambda: proxy.segment.log_records(10))[0]
        assert (record["status"], record["flags"], record["details"]) == (503, OM, "overload")
        assert record["path"] == "/"
        assert (proxy.counter("rq_shed_active"), proxy.counter("rq_overload")) == (2, 2)
        assert proxy.counter("pool_full") == 0 and len(silent.heads) == 3
        silent.go.set()
        assert [peer.answer()[0] for peer in held] == [200] * 3
        more.send(GET)
        assert more.answer()[0] == 200


def test_streams_and_gRPC_calls_above_it_are_told_in_their_own_terms(silent: Silent) -> None:
    with serving(silent, options={"max_exchanges": 2}) as proxy:
        client = dial(proxy.port)
        held = [client.request("GET", f"/{i}") for i in range(2)]
        wait_for(lambda: len(silent.heads) == 2)
        assert client.get().status == 503
        fields = [("content-type", "application/grpc"), ("te", "trailers")]
        answer = client.answer(client.request("POST", "/x.Y/Z", fields, body=b"\0\0\0\0\0"))
        assert (answer.status, answer["grpc-status"], answer["grpc-message"]) == (200, "14", "overloaded")
        silent.go.set()
        assert [client.answer(sid).status for sid in held] == [200, 200]
        assert client.get().status == 200
        client.close()


def test_a_flood_above_it_gets_answers_and_costs_the_others_nothing(silent: Silent) -> None:
    n = 200
    with serving(silent, options={"max_exchanges": 2}) as proxy:
        held = busy(proxy, silent, 2)
        flood = [proxy.dial() for _ in range(n)]
        for peer in flood:
            peer.send(GET * 20)
        assert all(peer.answer()[0] == 503 for peer in flood for _ in range(20))
        silent.go.set()
        assert [peer.answer()[0] for peer in held] == [200, 200]
        assert proxy.counter("rq_shed_active") == 20 * n
        for peer in flood:
            peer.close()


# ---- memory ------------------------------------------------------------------------------------------

BLOCK = 65536  # what an unfinished head of 30 KB is kept in


def hog(proxy: WorkerProxy, share: float, room: int) -> list[Peer]:
    """Unfinished heads that hold so much of the memory."""
    peers = []
    for _ in range(int(room * share) // BLOCK + 1):
        peer = proxy.dial()
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Hog: " + b"x" * 30_000)
        peers.append(peer)
    wait_for(lambda: proxy.segment.worker(0)["mem_bytes"] >= len(peers) * BLOCK)
    return peers


def let_go(proxy: WorkerProxy, hogs: list[Peer]) -> None:
    for peer in hogs:
        peer.close()
    wait_for(lambda: proxy.segment.worker(0)["connections"] <= 2)


def test_near_the_cap_of_memory_clients_are_told_to_leave() -> None:
    up = Upstream()
    with serving(up, options={"max_memory": 16 * MIB}) as proxy:
        old = dial(proxy.port)
        assert old.get().status == 200
        assert "connection" not in proxy.get()[1]
        hogs = hog(proxy, 0.92, 16 * MIB)
        status, fields, _ = proxy.get()
        assert (status, fields["connection"]) == (200, "close")
        assert old.get().status == 200
        last, code = old.goaway()
        assert (last, code) == (2**31 - 1, 0), "the first step of a drain: nothing is lost"
        assert old.get().status == 200 and proxy.counter("cx_shed") == 2
        let_go(proxy, hogs)
        assert "connection" not in proxy.get()[1]
        assert proxy.counter("cx_shed") == 2 and proxy.counter("rq_overload") == 0
        old.close()


def test_at_the_cap_of_memory_new_requests_are_503_om_and_old_ones_end(silent: Silent) -> None:
    with serving(silent, options={"max_memory": 16 * MIB}, log=True) as proxy:
        held = busy(proxy, silent, 2)
        hogs = hog(proxy, 0.96, 16 * MIB)
        status, fields, body = proxy.get()
        assert (status, fields["connection"], body) == (503, "close", b"overloaded\n")
        assert wait_for(lambda: proxy.segment.log_records(10))[0]["flags"] == OM
        assert proxy.counter("rq_shed_memory") == 1
        silent.go.set()
        assert [peer.answer()[0] for peer in held] == [200, 200]
        let_go(proxy, hogs)
        assert proxy.get()[0] == 200


# ---- time --------------------------------------------------------------------------------------------


def direct() -> dict[str, Any]:
    config = simple_config()
    config["tables"][0]["virtual_hosts"][0]["routes"] = [{"direct": {"status": 200}}]
    return config


def pour(proxy: WorkerProxy, stop: threading.Event, seen: set[int]) -> None:
    """As many requests at once as a connection takes, over and over."""
    n = 100
    with contextlib.suppress(OSError):
        peer = proxy.dial()
        while not stop.is_set():
            peer.send(GET * n)
            seen.update(peer.answer()[0] for _ in range(n))
        peer.close()


def load(proxy: WorkerProxy, until: Any) -> set[int]:
    stop = threading.Event()
    seen: set[int] = set()
    threads = [threading.Thread(target=pour, args=(proxy, stop, seen)) for _ in range(24)]
    for thread in threads:
        thread.start()
    try:
        wait_for(until, 30)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return seen


def test_when_connections_wait_too_long_new_requests_are_503_om_until_they_do_not() -> None:
    """The limit is the least there is: a turn with this load takes longer."""
    with serving(config=direct(), options={"shed_lag_ms": 1}) as proxy:
        seen = load(proxy, lambda: proxy.counter("rq_shed_lag") > 0)
        assert seen == {200, 503}
        assert proxy.counter("rq_overload") == proxy.counter("rq_shed_lag")
        wait_for(lambda: proxy.get()[0] == 200)


def test_the_same_load_is_served_with_the_limit_that_is_there_by_default() -> None:
    with serving(config=direct()) as proxy:
        seen = load(proxy, lambda: proxy.counter("rq_total") > 20_000)
        assert seen == {200}
        assert 0 < proxy.segment.worker(0)["lag_us"] < 1_000_000


def test_a_worker_that_was_stopped_is_not_overloaded() -> None:
    with serving(config=direct(), options={"shed_lag_ms": 100}) as proxy:
        for _ in range(4):
            assert proxy.get()[0] == 200
            os.kill(proxy.pid, signal.SIGSTOP)
            peers = [proxy.dial() for _ in range(10)]
            for peer in peers:
                peer.send(GET)
            time.sleep(0.25)  # how long it is stopped
            os.kill(proxy.pid, signal.SIGCONT)
            assert [peer.answer()[0] for peer in peers] == [200] * 10
            for peer in peers:
                peer.close()
        assert proxy.counter("rq_shed_lag") == 0


def test_an_idle_worker_sleeps() -> None:
    with serving(config=direct()) as proxy:
        assert proxy.get()[0] == 200
        before = proxy.segment.worker(0)
        wait_for(lambda: proxy.segment.worker(0)["heartbeat_ns"] > before["heartbeat_ns"] + 2 * 10**9)
        assert proxy.segment.worker(0)["loops"] - before["loops"] <= 12, "its heartbeat, and what closed"


# ---- a real edge -------------------------------------------------------------------------------------


def test_an_edge_says_what_it_sheds(tmp_path: Any, silent: Silent) -> None:
    port = free_port()
    text = istio.text(
        istio.gateway(istio.http(port)),
        istio.routes("- route: [{destination: {host: app.local}}]\n  retries: {attempts: 0}"),
        istio.service("app", silent.port),
    )
    edge = EdgeProxy(tmp_path, text, "--concurrency", "1", "--limit", "max_exchanges=2")
    edge.start()
    try:
        threads = [threading.Thread(target=request, args=(port, "x")) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(silent.heads) == 2)
        assert request(port, "x").status == 503
        line = edge.logged(lambda e: e["response_code"] == 503)
        assert (line["response_flags"], line["response_code_details"]) == ("OM", "overload")
        assert edge.stat("rq_shed_active") == 1
        metrics = edge.view("/metrics")[1]
        assert "fastmesh_rq_shed_active_total 1" in metrics and "fastmesh_worker_lag_microseconds" in metrics
        silent.go.set()
        for thread in threads:
            thread.join()
    finally:
        silent.go.set()
        edge.kill()
