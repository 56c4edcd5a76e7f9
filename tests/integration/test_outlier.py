"""Outlier detection with real workers: who fails is left alone by all, one good request brings it back."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import free_port, wait_for
from helpers import istio as doc
from helpers.h2origin import Origin, Request
from helpers.h2raw import dial
from helpers.mesh import EdgeProxy, request
from helpers.worker import Peer, Upstream, WorkerProxy, serving, simple_config

LONG = 3_600_000  # ms: no ejection ends while a test runs


class Moody(Upstream):
    """Answers with `line`; None: closes the connection. `gate`, when it is cleared, holds answers back."""

    def __init__(self, line: str | None = "200 OK") -> None:
        super().__init__(self.serve)
        self.line = line
        self.asked = 0
        self.lock = threading.Lock()
        self.gate = threading.Event()
        self.gate.set()

    def serve(self, peer: Peer) -> None:
        while self.request(peer):
            with self.lock:
                self.asked += 1
            self.gate.wait(30)
            if self.line is None:
                return
            peer.send(f"HTTP/1.1 {self.line}\r\nContent-Length: 2\r\n\r\nok".encode())


def watched(*ports: int, route: dict[str, Any] | None = None, **outlier: Any) -> dict[str, Any]:
    config = simple_config(*ports, retries={"attempts": 0}, **(route or {}))
    said = {"max_percent": 100, "base_ms": LONG, "most_ms": LONG, **outlier}
    config["clusters"][0].update(outlier=said, lb="ROUND_ROBIN")
    return config


def gets(proxy: WorkerProxy, n: int) -> Counter[int]:
    return Counter(proxy.get()[0] for _ in range(n))


def od(proxy: WorkerProxy) -> dict[str, int]:
    return {k[3:]: v for k, v in proxy.segment.counters().items() if k.startswith("od_") and v}


@pytest.mark.parametrize(
    ("line", "outlier", "reason", "n"),
    [
        ("500 No", {}, "5xx", 5),
        ("503 No", {}, "5xx", 5),
        ("502 No", {"consecutive_gateway": 2}, "gateway", 2),
        (None, {}, "5xx", 5),
        (None, {"split": True, "consecutive_local": 3}, "local", 3),
    ],
)
def test_an_endpoint_that_fails_is_ejected(
    line: str | None, outlier: dict[str, Any], reason: str, n: int
) -> None:
    bad, good = Moody(line), Moody()
    with serving(bad, good, config=watched(bad.port, good.port, **outlier)) as proxy:
        seen = gets(proxy, 40)
        assert bad.asked == n and seen[200] == 40 - n
        assert od(proxy) == {"ejections": 1, f"ejections_{reason}": 1}


@pytest.mark.parametrize(("split", "reason"), [(False, "5xx"), (True, "local")])
def test_an_endpoint_that_nobody_listens_at_is_ejected(split: bool, reason: str) -> None:
    good = Moody()
    with serving(good, config=watched(free_port(), good.port, split=split)) as proxy:
        assert gets(proxy, 40) == {200: 35, 503: 5}
        assert od(proxy) == {"ejections": 1, f"ejections_{reason}": 1}


@pytest.mark.parametrize(
    "route", [{"timeout_ms": 100}, {"retries": {"attempts": 0, "per_try_timeout_ms": 100}}]
)
def test_an_endpoint_that_does_not_answer_in_time_is_ejected(route: dict[str, Any]) -> None:
    bad, good = Moody(), Moody()
    bad.gate.clear()
    config = watched(bad.port, good.port, consecutive_5xx=2)
    config["tables"][0]["virtual_hosts"][0]["routes"][0].update(route)
    with serving(bad, good, config=config) as proxy:
        assert gets(proxy, 20) == {200: 18, 504: 2}
        assert od(proxy) == {"ejections": 1, "ejections_5xx": 1}
        bad.gate.set()


def test_when_all_are_ejected_the_answer_is_503_uh_at_once() -> None:
    one, two = Moody("500 No"), Moody("500 No")
    with serving(one, two, config=watched(one.port, two.port), log=True) as proxy:
        assert gets(proxy, 10) == {500: 10}
        assert gets(proxy, 5) == {503: 5}
        assert one.asked + two.asked == 10 and proxy.counter("rq_no_healthy") == 5
        seen: list[int] = []
        wait_for(
            lambda: (seen.extend(r["flags"] for r in proxy.segment.log_records(100)), len(seen) == 15)[1]
        )
        assert seen == [0] * 10 + [1] * 5


def test_with_min_health_percent_all_are_used_instead() -> None:
    one, two = Moody("500 No"), Moody("500 No")
    with serving(one, two, config=watched(one.port, two.port, min_health_percent=60)) as proxy:
        assert gets(proxy, 30) == {500: 30}
        assert one.asked == two.asked == 15


def test_max_ejection_percent_bounds_it() -> None:
    ups = [Moody("500 No") for _ in range(4)]
    with serving(*ups, config=watched(*(u.port for u in ups), max_percent=50)) as proxy:
        assert gets(proxy, 60) == {500: 60}
        assert od(proxy)["ejections"] == 2 and od(proxy)["overflow"] >= 2
        assert sum(u.asked == 5 for u in ups) == 2


def test_a_good_probe_brings_it_back_and_a_bad_one_does_not() -> None:
    bad, good = Moody("500 No"), Moody()
    config = watched(bad.port, good.port, consecutive_5xx=1, base_ms=300)
    with serving(bad, good, config=config) as proxy:

        def until(name: str, n: int) -> None:
            wait_for(lambda: (gets(proxy, 2), od(proxy).get(name, 0) >= n)[1], 20)

        until("probe_fail", 1)
        assert bad.asked == 2  # the one that ejected it, and the probe
        bad.line = "200 OK"
        until("probe_ok", 1)
        assert bad.asked == 3 or gets(proxy, 20) == {200: 20}
        before = bad.asked
        assert gets(proxy, 20) == {200: 20} and bad.asked == before + 10


def test_one_request_at_a_time_is_the_probe_and_one_that_is_given_up_lets_the_next() -> None:
    bad, good = Moody("500 No"), Moody()
    config = watched(bad.port, good.port, consecutive_5xx=1, base_ms=1)
    with serving(bad, good, config=config) as proxy:
        wait_for(lambda: (proxy.get(), od(proxy).get("ejections", 0) >= 1)[1])
        config["clusters"][0]["outlier"]["base_ms"] = LONG  # what a claim lasts
        proxy.publish(config)
        bad.line = "200 OK"
        bad.gate.clear()
        before = bad.asked
        held = []
        while bad.asked == before:
            peer = proxy.dial()
            peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            held.append(peer)
            wait_for(lambda: bad.asked > before or good.asked + bad.asked >= before + 1)
        assert gets(proxy, 20) == {200: 20} and bad.asked == before + 1
        for peer in held:
            peer.close()
        proxy.wait_quiet()
        bad.gate.set()
        wait_for(lambda: (proxy.get(), od(proxy).get("probe_ok", 0) == 1)[1])


# ---- the whole proxy, two workers


class Backend(Moody):
    pass


@pytest.fixture
def ends() -> Iterator[list[Backend]]:
    made = [Backend(), Backend(), Backend()]
    yield made
    for one in made:
        one.close()


def test_two_workers_eject_under_load_and_errors_are_bounded(tmp_path: Path, ends: list[Backend]) -> None:
    port, clients = free_port(), 8
    text = doc.text(
        doc.gateway(doc.http(port)),
        doc.routes("- route: [{destination: {host: app.local}}]\n  retries: {attempts: 0}"),
        doc.service("app", *(e.port for e in ends)),
        doc.policy(
            "app",
            "outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 1h, maxEjectionPercent: 100}",
        ),
    )
    edge = EdgeProxy(tmp_path, text)
    edge.start()
    try:
        found: Counter[int] = Counter()
        lock = threading.Lock()
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                status = request(port, "x").status
                with lock:
                    found[status] += 1

        threads = [threading.Thread(target=load, daemon=True) for _ in range(clients)]
        for thread in threads:
            thread.start()
        wait_for(lambda: found[200] > 100, 20)
        bad = ends[0]
        bad.line = "500 No"
        wait_for(lambda: edge.stat("od_ejections") == 1, 20)
        after = found[200]
        wait_for(lambda: found[200] > after + 200, 20)
        stop.set()
        for thread in threads:
            thread.join(20)
        # the threshold, and what was on its way meanwhile
        assert 3 <= found[500] <= 3 + clients and set(found) == {200, 500}
        states = {
            int(e["address"].rpartition(":")[2]): e
            for c in json.loads(edge.view("/clusters?format=json")[1])["clusters"]
            for e in c["endpoints"]
        }
        assert [states[e.port]["health"] for e in ends] == ["ejected", "healthy", "healthy"]
        assert states[bad.port]["ejections"] == 1 and states[bad.port]["ejected_ms"] > 3_000_000
        assert f"127.0.0.1:{bad.port}::health_flags::ejected" in edge.view("/clusters")[1]
        # a config without it takes it back
        edge.reload(text.replace("outlierDetection", "connectionPool").replace(
            "{consecutive5xxErrors: 3, baseEjectionTime: 1h, maxEjectionPercent: 100}", "{}"))  # fmt: skip
        assert edge.process.alive
    finally:
        edge.kill()


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize(
    ("status", "ejected"), [(14, True), (13, True), (2, True), (4, True), (5, False), (0, False)]
)
def test_statuses_of_grpc_calls_count(status: int, ejected: bool, at_the_end: bool) -> None:
    """Whether the status is in the head or behind a message."""

    def answer(call: Request) -> None:
        said = [("grpc-status", str(status))]
        if at_the_end:
            call.head(200, [("content-type", "application/grpc")])
            call.data(b"\0\0\0\0\0")
            call.end(said)
        else:
            call.head(200, [("content-type", "application/grpc"), *said], end=True)

    origin = Origin(inline=answer)
    config = watched(origin.port, consecutive_5xx=3)
    config["clusters"][0]["protocol"] = "h2"
    with serving(origin, config=config) as proxy:  # type: ignore[arg-type]
        client = dial(proxy.port)
        fields = [("content-type", "application/grpc"), ("te", "trailers")]
        for _ in range(3):
            assert client.answer(client.request("POST", "/x.Y/Z", fields)).status == 200
        proxy.wait_quiet()
        assert od(proxy) == ({"ejections": 1, "ejections_5xx": 1} if ejected else {})
        client.close()
