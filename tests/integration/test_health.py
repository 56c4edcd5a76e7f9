"""Active health checks with real workers: applications that turn bad, hang, close and come back, over HTTP/1
and TCP. HTTP/2, gRPC, TLS and several workers: test_health_more.py."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from typing import Any

import pytest

from fastmesh._core.shm import clusters
from fastmesh._core.shm.segment import cluster_id
from helpers import free_port, wait_for
from helpers.worker import Peer, Upstream, WorkerProxy, listening, serving, simple_config

UNKNOWN, HEALTHY, UNHEALTHY = range(3)
FAST = {"interval_ms": 30, "timeout_ms": 10_000}


def checked(*ports: int, cluster: dict[str, Any] | None = None, **health: Any) -> dict[str, Any]:
    config = simple_config(*ports, retries={"attempts": 0})
    said = {"kind": "http", "path": "/healthz", **FAST, **health}
    config["clusters"][0].update(health=said, lb="ROUND_ROBIN", service="app.local", **(cluster or {}))
    return config


def cell_of(proxy: WorkerProxy, port: int) -> int | None:
    return proxy.cells.cells.get(cluster_id(f"c\x00127.0.0.1:{port}"))


def health(proxy: WorkerProxy, port: int) -> int:
    cell = cell_of(proxy, port)
    return UNKNOWN if cell is None else clusters.health(proxy.segment, cell)["health"]


def until(proxy: WorkerProxy, port: int, state: int) -> None:
    wait_for(lambda: health(proxy, port) == state, 20, f"{port} {('unknown', 'healthy', 'unhealthy')[state]}")


def hc(proxy: WorkerProxy) -> dict[str, int]:
    return {k[3:]: v for k, v in proxy.segment.counters().items() if k.startswith("hc_") and v}


def gets(proxy: WorkerProxy, n: int) -> Counter[int]:
    return Counter(proxy.get()[0] for _ in range(n))


class App(Upstream):
    """Its health check is answered with `answer` (None: not at all; b"": by closing), requests with 200."""

    OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    def __init__(self) -> None:
        super().__init__(self.app)
        self.answer: bytes | None = self.OK
        self.asked = 0
        self.checks: list[bytes] = []
        self.end = threading.Event()

    def app(self, peer: Peer) -> None:
        while head := self.request(peer):
            if b"fastmesh-hc" not in head:
                self.asked += 1
                peer.send(self.OK)
                continue
            self.checks.append(head)
            answer = self.answer
            if answer is None:
                self.end.wait(30)
            if not answer:
                return
            peer.send(answer)

    def close(self) -> None:
        self.end.set()
        super().close()


def line(status: str, more: str = "", body: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{more}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def test_what_a_check_looks_like() -> None:
    up = App()
    with serving(up, config=checked(up.port, path="/a?b=c", host="x.example:81")) as proxy:
        until(proxy, up.port, HEALTHY)
        assert up.checks[0] == (
            b"GET /a?b=c HTTP/1.1\r\nhost: x.example:81\r\n"
            b"user-agent: fastmesh-hc\r\nconnection: close\r\n\r\n"
        )
        # each on a connection of its own, and none of them is a request or a connection of the cluster
        wait_for(lambda: len(up.checks) >= 3)
        assert up.connections >= len(up.checks)
        counters = proxy.segment.counters()
        assert counters["rq_total"] == counters["up_cx_total"] == 0
        assert clusters.stats(proxy.segment, 0)["connections"] == 0
    up2 = App()
    with serving(up2, config=checked(up2.port)) as proxy:
        until(proxy, up2.port, HEALTHY)
        assert b"\r\nhost: app.local\r\n" in up2.checks[0]


@pytest.mark.parametrize(
    ("answer", "network"),
    [
        (line("500 No"), False),
        (line("404 Not Found", body="?" * 3000), False),
        (line("204 No Content"), False),
        (line("301 Moved", "Location: /x\r\n"), False),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", False),
        (b"", True),
        (b"garbage\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", True),  # and then it waits for the next request
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 40, True),
        (None, True),
    ],
)
def test_an_app_that_turns_bad_is_left_alone_until_it_is_back(answer: bytes | None, network: bool) -> None:
    bad, good = App(), App()
    timeout = 200 if network else 10_000  # who only answers badly is given the time to do it
    with serving(bad, good, config=checked(bad.port, good.port, timeout_ms=timeout)) as proxy:
        until(proxy, bad.port, HEALTHY)
        until(proxy, good.port, HEALTHY)
        assert gets(proxy, 10) == {200: 10} and bad.asked == 5
        bad.answer = answer
        until(proxy, bad.port, UNHEALTHY)
        said = hc(proxy)
        assert said["unhealthy"] == 1 and said["failure"] >= 3
        assert said.get("network_failure", 0) == (said["failure"] if network else 0)
        before = bad.asked
        assert gets(proxy, 10) == {200: 10} and bad.asked == before
        bad.answer = App.OK
        bad.end.set()
        until(proxy, bad.port, HEALTHY)
        assert gets(proxy, 10) == {200: 10} and bad.asked > before
        assert hc(proxy)["healthy"] == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + App.OK,
        b"HTTP/1.0 200 OK\r\n\r\n",
        line("200 OK", body="x" * 300_000),
        line("200 OK", "X-Long: " + "y" * 40_000 + "\r\n"),
    ],
)
def test_whatever_http_1_allows_is_an_answer(answer: bytes) -> None:
    class Once(App):
        def app(self, peer: Peer) -> None:
            if self.request(peer):
                for at in range(0, len(answer), 20_000):
                    peer.send(answer[at : at + 20_000])

    up = Once()
    with serving(up, config=checked(up.port)) as proxy:
        until(proxy, up.port, HEALTHY)
        wait_for(lambda: hc(proxy)["success"] >= 3)
        assert "failure" not in hc(proxy)


@pytest.mark.parametrize(
    ("status", "good"),
    [(199, None), (200, True), (299, True), (300, False), (404, True), (405, False), (503, False)],
)
def test_expected_statuses(status: int, good: bool | None) -> None:
    up = App()
    up.answer = line(f"{status} X")
    timeout = 200 if good is None else 10_000
    config = checked(up.port, expected=[[200, 299], [404, 404]], timeout_ms=timeout)
    with serving(up, config=config) as proxy:
        # 199 is no final answer: none comes
        until(proxy, up.port, HEALTHY if good else UNHEALTHY)
        assert ("network_failure" in hc(proxy)) == (good is None)


def test_when_all_are_unhealthy_the_answer_is_503_uh() -> None:
    one, two = App(), App()
    one.answer = two.answer = line("500 No")
    with serving(one, two, config=checked(one.port, two.port), log=True) as proxy:
        until(proxy, one.port, UNHEALTHY)
        until(proxy, two.port, UNHEALTHY)
        assert gets(proxy, 3) == {503: 3} and one.asked + two.asked == 0
        assert proxy.counter("rq_no_healthy") == 3
        seen: list[int] = []
        wait_for(lambda: (seen.extend(r["flags"] for r in proxy.segment.log_records(100)), len(seen) == 3)[1])
        assert seen == [1, 1, 1]


def test_with_min_health_percent_all_are_used_instead() -> None:
    one, two = App(), App()
    one.answer = two.answer = line("500 No")
    config = checked(one.port, two.port, cluster={"outlier": {"min_health_percent": 60}})
    with serving(one, two, config=config) as proxy:
        until(proxy, one.port, UNHEALTHY)
        until(proxy, two.port, UNHEALTHY)
        assert gets(proxy, 10) == {200: 10} and one.asked == two.asked == 5


def test_a_port_that_is_closed_and_open_again() -> None:
    """TCP: whether a connection can be made; the application need not say a word."""
    other = Upstream()
    port = free_port()
    with serving(other, config=checked(port, other.port, kind="tcp")) as proxy:
        until(proxy, port, UNHEALTHY)
        until(proxy, other.port, HEALTHY)
        assert gets(proxy, 5) == {200: 5}
        assert hc(proxy)["network_failure"] == hc(proxy)["failure"]
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(64)
        until(proxy, port, HEALTHY)
        sock.close()
        until(proxy, port, UNHEALTHY)


def test_another_port_is_asked() -> None:
    app, aside = Upstream(), App()
    with serving(app, aside, config=checked(app.port, port=aside.port)) as proxy:
        until(proxy, app.port, HEALTHY)
        assert aside.checks and not app.heads
        aside.answer = line("500 No")
        until(proxy, app.port, UNHEALTHY)
        assert gets(proxy, 2) == {503: 2}


def test_a_config_that_takes_the_check_away_forgets_what_it_has_found() -> None:
    up = App()
    up.answer = line("500 No")
    config = checked(up.port)
    with serving(up, config=config) as proxy:
        until(proxy, up.port, UNHEALTHY)
        assert gets(proxy, 2) == {503: 2}
        said = config["clusters"][0].pop("health")
        proxy.publish(config)
        assert health(proxy, up.port) == UNKNOWN and gets(proxy, 2) == {200: 2}
        assert clusters.stats(proxy.segment, 0)["unhealthy"] == 0
        seen = len(up.checks)
        config["clusters"][0]["health"] = said
        proxy.publish(config)
        until(proxy, up.port, UNHEALTHY)
        assert len(up.checks) > seen


def test_a_config_that_comes_while_checks_are_in_flight() -> None:
    """One that is gone has no result, one that stays goes on, and nothing is left behind: the worker ends
    with status 0."""
    hangs, stays = App(), App()
    hangs.answer = stays.answer = None
    config = checked(hangs.port, stays.port, timeout_ms=60_000)
    with serving(hangs, stays, config=config) as proxy:
        wait_for(lambda: hangs.checks and stays.checks)
        config["clusters"][0]["endpoints"] = config["clusters"][0]["endpoints"][1:]
        proxy.publish(config)
        stays.answer = App.OK
        wait_for(lambda: proxy.segment.worker(0)["upstreams"] == 0)
        stays.end.set()
        # its answer never came, but another config does
        config["clusters"][0]["health"]["path"] = "/other"
        config["clusters"][0]["health"]["timeout_ms"] = 500
        proxy.publish(config)
        wait_for(lambda: any(b"/other" in head for head in stays.checks))
        until(proxy, stays.port, HEALTHY)
        assert health(proxy, hangs.port) == UNKNOWN


@pytest.mark.parametrize("end", ["drain", "stop"])
def test_a_worker_that_ends_leaves_its_checks(end: str) -> None:
    up = App()
    up.answer = None
    proxy = WorkerProxy(checked(up.port, timeout_ms=60_000))
    try:
        wait_for(lambda: up.checks)
        cell = cell_of(proxy, up.port)
        assert cell is not None
        claim = clusters.health(proxy.segment, cell)["check_at"]
        if end == "drain":
            proxy.drain(30)
        else:
            proxy.segment.order(0, 2)
        assert proxy.wait_exit() == 0
        # due at once for whoever is still there, and not failed
        after = clusters.health(proxy.segment, cell)
        assert after["check_at"] < claim and after["in_row_fail"] == 0
    finally:
        proxy.close()
        up.close()


def test_many_endpoints_that_hang_do_not_keep_the_others_from_their_turn() -> None:
    """More than a worker checks at a time."""
    up, hole = App(), listening()  # which nobody accepts from
    config = checked(up.port, interval_ms=20)
    config["clusters"].append(
        {
            "name": "holes",
            "endpoints": [{"address": "127.0.0.1", "port": port} for port in range(1, 601)],
            "health": {
                "kind": "http",
                "path": "/",
                "interval_ms": 20,
                "timeout_ms": 300,
                "port": hole.getsockname()[1],
            },
        }
    )
    with serving(up, config=config) as proxy:
        until(proxy, up.port, HEALTHY)
        wait_for(lambda: len(up.checks) >= 3, 20)
        assert hc(proxy)["deferred"] > 0
        cell = proxy.cells.clusters[cluster_id("holes")]
        wait_for(lambda: clusters.stats(proxy.segment, cell)["unhealthy"] == 600, 30)
    hole.close()


def test_who_waits_for_a_connection_of_an_endpoint_that_turns_unhealthy_goes_elsewhere() -> None:
    class Holding(App):
        def app(self, peer: Peer) -> None:
            while head := self.request(peer):
                if b"fastmesh-hc" in head:
                    peer.send(self.answer or b"")
                    return
                self.asked += 1
                self.end.wait(30)
                peer.send(self.OK)

    bad, good = Holding(), App()
    cluster = {"max_connections": 1, "connect_timeout_ms": 60_000}
    with serving(bad, good, config=checked(bad.port, good.port, cluster=cluster)) as proxy:
        until(proxy, bad.port, HEALTHY)
        until(proxy, good.port, HEALTHY)
        held: list[Peer] = []

        def ask() -> Peer:
            peer = proxy.dial()
            peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            held.append(peer)
            return peer

        def pending() -> int:
            return clusters.stats(proxy.segment, 0)["pending"]

        while not bad.asked:
            ask()
            wait_for(lambda: bad.asked + good.asked == len(held))
        first = held[-1]
        while not pending():
            peer = ask()
            wait_for(lambda: pending() or bad.asked + good.asked == len(held))
        bad.answer = line("500 No")
        until(proxy, bad.port, UNHEALTHY)
        assert peer.answer()[0] == 200 and pending() == 0 and bad.asked == 1
        bad.end.set()
        assert first.answer()[0] == 200
        for each in held:
            each.close()
