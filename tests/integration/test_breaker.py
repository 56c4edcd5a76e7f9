"""Circuit breaking and retries through one worker: what the limits let through, who waits, who is told no."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import wait_for
from helpers.h2origin import Origin, Request
from helpers.h2raw import dial
from helpers.worker import Peer, Upstream, WorkerProxy, serving, simple_config

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Gate(Upstream):
    """Answers a request once it is told to; `held` are the connections whose request waits."""

    def __init__(self, answer: bytes = OK) -> None:
        super().__init__(self.hold)
        self.answer = answer
        self.held: list[Peer] = []
        self.order: list[str] = []
        self.most = 0
        self.go = threading.Event()
        self.lock = threading.Lock()
        self.tokens = threading.Semaphore(0)

    def hold(self, peer: Peer) -> None:
        while head := self.request(peer):
            with self.lock:
                self.order.append(head.split(b" ")[1].decode())
                self.held.append(peer)
                self.most = max(self.most, len(self.held))
            if not self.go.is_set():
                self.tokens.acquire(timeout=30)
            with self.lock:
                self.held.remove(peer)
            peer.send(self.answer)

    def let(self, n: int = 1) -> None:
        self.tokens.release(n)

    def open(self) -> None:
        self.go.set()
        self.tokens.release(1000)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open()


def limited(*ports: int, route: dict[str, Any] | None = None, **cluster: Any) -> dict[str, Any]:
    config = simple_config(*ports, **(route or {}))
    config["clusters"][0].update(cluster)
    return config


def ask(proxy: WorkerProxy, n: int, path: str = "/") -> list[Peer]:
    """So many clients, one after the other: the proxy has taken each before the next one asks."""
    peers = []
    for i in range(n):
        before = proxy.counter("rq_total")
        peer = proxy.dial()
        peer.send(f"GET {path}{i} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        proxy.wait_counter("rq_total", before + 1)
        peers.append(peer)
    return peers


def statuses(peers: list[Peer]) -> list[int]:
    return [peer.answer()[0] for peer in peers]


def test_more_requests_than_max_requests_are_503_uo(gate: Gate) -> None:
    with serving(gate, config=limited(gate.port, max_requests=3), log=True) as proxy:
        held = ask(proxy, 3)
        wait_for(lambda: len(gate.held) == 3)
        status, _, body = proxy.get("/more")
        assert (status, body) == (503, b"upstream connect error: overflow\n")
        record = wait_for(lambda: proxy.segment.log_records(10))[0]
        assert record["flags"] == 4 and record["details"].endswith("{overflow}") and record["attempts"] == 0
        assert proxy.counter("rq_overflow") == 1
        gate.open()
        assert statuses(held) == [200] * 3
        proxy.wait_quiet()
        assert proxy.get("/again")[0] == 200


def test_what_may_not_open_a_connection_waits_for_one_in_turn(gate: Gate) -> None:
    with serving(gate, config=limited(gate.port, max_connections=2)) as proxy:
        clients = ask(proxy, 6)
        wait_for(lambda: len(gate.held) == 2)
        assert proxy.counter("up_cx_overflow") == 4
        for done in range(1, 7):
            gate.let()
            wait_for(lambda n=done: len(gate.order) == min(6, 2 + n) and len(gate.held) == min(2, 6 - n))
        assert statuses(clients) == [200] * 6
        assert gate.order == [f"/{i}" for i in range(6)]
        assert gate.connections == 2 and gate.most == 2


def test_more_than_max_pending_are_503_uo(gate: Gate) -> None:
    with serving(gate, config=limited(gate.port, max_connections=1, max_pending=2)) as proxy:
        clients = ask(proxy, 3)
        wait_for(lambda: len(gate.held) == 1)
        assert proxy.get("/more")[0] == 503
        assert proxy.counter("rq_pending_overflow") == 1
        gate.open()
        assert statuses(clients) == [200] * 3


def test_nobody_waits_longer_than_the_connect_timeout(gate: Gate) -> None:
    config = limited(gate.port, max_connections=1, connect_timeout_ms=200)
    with serving(gate, config=config, log=True) as proxy:
        first, *others = ask(proxy, 3)
        assert statuses(others) == [503, 503]
        assert {r["flags"] for r in wait_for(lambda: proxy.segment.log_records(10))} == {4}
        gate.open()
        assert first.answer()[0] == 200


def test_a_client_that_leaves_waits_no_more(gate: Gate) -> None:
    with serving(gate, config=limited(gate.port, max_connections=1)) as proxy:
        first, second, third = ask(proxy, 3)
        second.close()
        proxy.wait_counter("rq_dc", 1)
        gate.open()
        assert statuses([first, third]) == [200, 200]
        assert gate.order == ["/0", "/2"]


def test_a_connection_that_breaks_makes_room(gate: Gate) -> None:
    with serving(gate, config=limited(gate.port, max_connections=1)) as proxy:
        first, second = ask(proxy, 2)
        wait_for(lambda: len(gate.held) == 1)
        gate.held[0].sock.shutdown(2)
        gate.open()
        assert first.answer()[0] in (200, 503)  # a GET may be repeated where the connection was used before
        assert second.answer()[0] == 200


def test_a_worker_without_a_connection_may_open_one() -> None:
    """The limit is the cluster's: nobody may starve behind connections of another endpoint."""
    one, two = Gate(), Gate()
    config = limited(one.port, two.port, max_connections=1, lb="ROUND_ROBIN")
    with serving(one, two, config=config) as proxy:
        clients = ask(proxy, 2)
        wait_for(lambda: len(one.held) + len(two.held) == 2)
        one.open()
        two.open()
        assert statuses(clients) == [200, 200]


def test_streams_wait_where_neither_a_stream_nor_a_connection_may_be_opened() -> None:
    held: list[Request] = []
    origin = Origin(inline=held.append)
    config = limited(origin.port, protocol="h2", max_connections=1, max_streams=2)
    with serving(origin, config=config) as proxy:  # type: ignore[arg-type]
        client = dial(proxy.port)
        sids = [client.request("GET", f"/{i}") for i in range(6)]
        for answered in range(6):
            origin.wait_requests(min(6, answered + 2))
            assert len(held) <= answered + 2
            held[answered].answer(200, [], b"ok")
            assert client.answer(sids[answered]).status == 200
        assert origin.connections == 1
        client.close()


@pytest.mark.parametrize("protocol", ["http1", "h2"])
def test_a_connection_that_is_too_old_takes_no_request(protocol: str) -> None:
    up: Any = Upstream() if protocol == "http1" else Origin()
    with serving(up, config=limited(up.port, protocol=protocol, max_age_ms=150)) as proxy:
        for _ in range(3):
            assert proxy.get()[0] == 200
        assert up.connections == 1
        wait_for(lambda: proxy.get()[0] == 200 and up.connections == 2, 5, "a younger connection")
        wait_for(lambda: proxy.segment.worker(0)["upstreams"] == 1, 5, "the end of the old one")


def test_tcp_keep_alive_is_set_as_asked() -> None:
    up = Upstream()
    config = limited(up.port, keepalive={"time_s": 77, "interval_s": 5, "probes": 3})
    with serving(up, config=config) as proxy:
        assert proxy.get()[0] == 200
        # the kernel's table of the worker's own sockets: timer 02 is keep-alive, due in about 77 s
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        (timer,) = [row[5] for row in rows if row[2] == f"0100007F:{up.port:04X}"]
        kind, due = timer.split(":")
        assert kind == "02" and 60 < int(due, 16) / 100 <= 77


# ---- retries -----------------------------------------------------------------------------------------

BROKEN = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\noops"
RETRY = {"retries": {"attempts": 2, "retry_on": ["5xx"], "backoff_ms": 1}}


def test_retries_stay_within_the_budget() -> None:
    """All fail at once: a fifth of them is tried again, and no more than twice."""
    broken = Gate(BROKEN)
    n = 50
    with serving(broken, config=limited(broken.port, route=RETRY)) as proxy:
        clients = ask(proxy, n)
        wait_for(lambda: len(broken.held) == n)
        broken.open()
        assert statuses(clients) == [503] * n
        retries = proxy.counter("rq_retry")
        assert 3 <= retries <= 2 * n // 5 and len(broken.order) == n + retries
        assert proxy.counter("rq_retry_overflow") >= n - n // 5


def test_a_few_retries_are_always_allowed() -> None:
    broken = Gate(BROKEN)
    broken.open()
    with serving(broken, config=limited(broken.port, route=RETRY), log=True) as proxy:
        for _ in range(5):
            status, _, body = proxy.get()
            assert (status, body) == (503, b"oops")
        assert len(broken.order) == 15
        proxy.wait_quiet()
        records = proxy.segment.log_records(10)
        assert [(r["attempts"], r["flags"]) for r in records] == [(3, 32)] * 5  # URX


def test_without_a_budget_none_is_kept() -> None:
    broken = Gate(BROKEN)
    with serving(broken, config=limited(broken.port, route=RETRY, budget_ppm=0)) as proxy:
        clients = ask(proxy, 20)
        wait_for(lambda: len(broken.held) == 20)
        broken.open()
        assert statuses(clients) == [503] * 20
        assert len(broken.order) == 60


def test_max_retries_bounds_them_too() -> None:
    broken = Gate(BROKEN)
    config = limited(broken.port, route=RETRY, budget_ppm=0, max_retries=2)
    with serving(broken, config=config) as proxy:
        clients = ask(proxy, 20)
        wait_for(lambda: len(broken.held) == 20)
        broken.open()
        assert statuses(clients) == [503] * 20
        assert 22 <= len(broken.order) <= 24


@pytest.mark.parametrize(
    ("status", "retry_on", "repeated"),
    [
        (500, ["5xx"], True), (503, ["5xx"], True), (404, ["5xx"], False), (500, ["gateway-error"], False),
        (502, ["gateway-error"], True), (503, ["gateway-error"], True), (504, ["gateway-error"], True),
        (409, ["retriable-4xx"], True), (404, ["retriable-4xx"], False), (503, ["reset"], False),
        (503, ["connect-failure", "refused-stream"], False), (418, ["retriable-status-codes"], True),
        (429, ["retriable-status-codes"], True), (503, ["retriable-status-codes"], False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", [1, 2])
def test_answers_that_are_tried_again(status: int, retry_on: list[str], repeated: bool, version: int) -> None:
    retries = {"attempts": 1, "retry_on": retry_on, "backoff_ms": 1, "statuses": [418, 429]}
    if version == 1:
        up: Any = Upstream()
        seen: list[bytes] = []

        def serve(peer: Peer) -> None:
            while head := up.request(peer):
                seen.append(head)
                peer.send(OK if len(seen) > 1 else b"HTTP/1.1 %d X\r\nContent-Length: 3\r\n\r\nbad" % status)

        up.handler = serve
        config = limited(up.port, route={"retries": retries})
    else:

        def script(request: Request) -> None:
            request.wait_end()
            request.answer(200 if len(up.requests) > 1 else status, [], b"ok")

        up = Origin(script)
        config = limited(up.port, route={"retries": retries}, protocol="h2")
    with serving(up, config=config) as proxy:
        peer = proxy.dial()
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
        assert peer.answer()[0] == (200 if repeated else status)
        assert proxy.counter("rq_retry") == int(repeated)
        bodies = up.bodies if version == 1 else [bytes(r.body) for r in up.requests]
        assert bodies == [b"hello"] * (2 if repeated else 1)


@pytest.mark.parametrize("retry_on", ["5xx", "gateway-error", "reset"])
def test_a_try_that_takes_too_long_is_made_again(retry_on: str) -> None:
    gate = Gate()
    route = {"retries": {"attempts": 1, "retry_on": [retry_on], "per_try_timeout_ms": 150, "backoff_ms": 1}}
    with serving(gate, config=limited(gate.port, route=route), log=True) as proxy:
        peer = proxy.dial()
        peer.send(GET)
        wait_for(lambda: len(gate.order) == 2)
        gate.open()
        assert peer.answer()[0] == 200
        assert wait_for(lambda: proxy.segment.log_records(10))[0]["attempts"] == 2


def test_tries_that_all_take_too_long_are_504() -> None:
    gate = Gate()
    route = {"retries": {"attempts": 1, "retry_on": ["5xx"], "per_try_timeout_ms": 100, "backoff_ms": 1}}
    with serving(gate, config=limited(gate.port, route=route)) as proxy:
        assert proxy.get()[0] == 504
        assert len(gate.order) == 2
        gate.open()


def test_a_body_that_is_too_large_to_keep_is_sent_once() -> None:
    broken = Gate(BROKEN)
    broken.open()
    with serving(broken, config=limited(broken.port, route=RETRY)) as proxy:
        peer = proxy.dial()
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n" + b"x" * 65537)
        assert peer.answer()[0] == 503
        assert len(broken.order) == 1
