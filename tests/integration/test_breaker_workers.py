"""Limits that hold for all workers of a proxy together, and what a worker that dies leaves behind."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import free_port, istio, wait_for
from helpers.mesh import EdgeProxy
from helpers.worker import Peer, Upstream

MOST = 4


class Holding(Upstream):
    """Answers when it is told to; counts how many it has at a time."""

    def __init__(self) -> None:
        super().__init__(self.hold)
        self.now = self.most = self.seen = 0
        self.lock = threading.Lock()
        self.go = threading.Event()

    def hold(self, peer: Peer) -> None:
        while self.request(peer):
            with self.lock:
                self.now += 1
                self.seen += 1
                self.most = max(self.most, self.now)
            self.go.wait(30)
            with self.lock:
                self.now -= 1
            peer.send(self.response)


class Site:
    def __init__(self, directory: Path, policy: str) -> None:
        self.up = Holding()
        self.port = free_port()
        text = istio.text(
            istio.gateway(istio.http(self.port)),
            istio.routes("- route: [{destination: {host: app.local}}]\n  retries: {attempts: 0}"),
            istio.service("app", self.up.port),
            istio.policy("app", policy),
        )
        self.edge = EdgeProxy(directory, text, "--concurrency", "3")
        self.edge.start()

    def ask(self) -> Peer:
        peer = Peer(socket.create_connection(("127.0.0.1", self.port), 20))
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return peer

    def breakers(self) -> dict[str, Any]:
        import json

        clusters = json.loads(self.edge.view("/clusters?format=json")[1])["clusters"]
        found: dict[str, Any] = next(c for c in clusters if "app.local" in c["name"])["circuit_breakers"]
        return found

    def close(self) -> None:
        self.up.go.set()
        self.edge.kill()
        self.up.close()
        print(self.edge.process.report())


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(tmp_path, request.param)
    yield made
    made.close()


def readable(peer: Peer) -> bool:
    return bool(select.select([peer.sock], [], [], 0)[0])


REQUESTS = f"connectionPool: {{http: {{http2MaxRequests: {MOST}}}}}"


@pytest.mark.parametrize("site", [REQUESTS], indirect=True)
def test_requests_in_flight_are_counted_over_all_workers(site: Site) -> None:
    n = 30
    peers = [site.ask() for _ in range(n)]
    wait_for(lambda: site.edge.stat("rq_overflow") + site.up.now == n)
    # Two workers may look at the same moment: above the limit by the number of the others at the most.
    assert MOST <= site.up.most <= MOST + 2
    shown = site.breakers()
    assert shown["max_requests"] == MOST and shown["rq_active"] == site.up.now
    assert shown["overflows"] == n - site.up.now
    assert site.edge.view("/clusters")[1].count(f"default_priority::max_requests::{MOST}") == 1
    site.up.go.set()
    statuses = sorted(peer.answer()[0] for peer in peers)
    assert statuses.count(503) == n - site.up.seen and set(statuses) == {200, 503}
    site.edge.idle()
    assert site.breakers()["rq_active"] == 0


@pytest.mark.parametrize("site", [REQUESTS], indirect=True)
def test_the_slots_of_a_worker_that_is_killed_come_back(site: Site) -> None:
    peers = [site.ask() for _ in range(20)]
    wait_for(lambda: site.edge.stat("rq_overflow") + site.up.now == 20)
    for pid in site.edge.worker_pids():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: site.breakers()["rq_active"] == 0, 20, "the gauge of what is in flight")
    assert site.breakers()["cx_active"] == 0
    for peer in peers:
        peer.close()
    site.edge.wait_ready()
    site.up.go.set()
    again = [site.ask() for _ in range(MOST)]
    assert [peer.answer()[0] for peer in again] == [200] * MOST


@pytest.mark.parametrize("site", [f"connectionPool: {{tcp: {{maxConnections: {MOST}}}}}"], indirect=True)
def test_connections_are_counted_over_all_workers(site: Site) -> None:
    n = 20
    peers = [site.ask() for _ in range(n)]
    wait_for(lambda: site.edge.stat("up_cx_overflow") >= n - MOST - 2)
    wait_for(lambda: site.breakers()["rq_pending"] + site.up.now == n)
    # each of the three workers may have one whatever the others have
    assert site.breakers()["cx_active"] <= MOST + 2
    site.up.go.set()
    assert [peer.answer()[0] for peer in peers] == [200] * n
    assert site.up.connections <= MOST + 2
    assert site.breakers()["rq_pending"] == 0


@pytest.mark.parametrize("site", ["connectionPool: {http: {http2MaxRequests: 12}}"], indirect=True)
def test_one_worker_is_killed_and_the_others_live_on(site: Site) -> None:
    """What it held comes back while they are at work; what they hold is still counted, and still answered."""
    peers = [site.ask() for _ in range(40)]
    wait_for(lambda: site.edge.stat("rq_overflow") + site.up.now == 40)
    refused = [peer for peer in peers if readable(peer)]
    assert {peer.answer()[0] for peer in refused} == {503}
    held = [peer for peer in peers if peer not in refused]
    victim = min(site.edge.worker_pids())
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in site.edge.worker_pids() and len(site.edge.worker_pids()) == 3)
    lost = [peer for peer in held if readable(peer)]
    assert all(not peer.more() for peer in lost)
    kept = len(held) - len(lost)
    wait_for(lambda: site.breakers()["rq_active"] == site.breakers()["cx_active"] == kept, what="the gauges")
    site.edge.wait_ready()
    # The slots that came back can be had, and no others (but one by each worker that looks at that moment).
    more = [site.ask() for _ in range(20)]
    wait_for(lambda: sum(map(readable, more)) + site.breakers()["rq_active"] - kept == 20)
    site.up.go.set()
    assert {peer.answer()[0] for peer in held if peer not in lost} <= {200}
    assert len(lost) <= [peer.answer()[0] for peer in more].count(200) <= len(lost) + 2
    site.edge.idle()
