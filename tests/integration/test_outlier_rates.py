"""Ejection by success rate and failure percentage with a real worker; what counts as a failure."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from helpers import free_port, wait_for
from helpers.worker import Peer, Upstream, WorkerProxy, serving, simple_config

LONG = 3_600_000  # ms


class Often(Upstream):
    """Fails every `nth` request: 1 all, 0 none. `how`: its bytes then; b"": it closes the connection."""

    def __init__(self, nth: int = 0, how: bytes = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n") -> None:
        super().__init__(self.serve)
        self.nth, self.how, self.asked = nth, how, 0

    def serve(self, peer: Peer) -> None:
        while self.request(peer):
            self.asked += 1
            if self.nth and self.asked % self.nth == 0:
                peer.send(self.how)
                if b"Length: 0" not in self.how:
                    return
            else:
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def watched(ends: list[Often], retry_on: list[str] | None = None, **outlier: Any) -> dict[str, Any]:
    retries = {"attempts": 2, "retry_on": retry_on, "backoff_ms": 1} if retry_on else {"attempts": 0}
    config = simple_config(*(e.port for e in ends), retries=retries)
    said = {"max_percent": 100, "base_ms": LONG, "most_ms": LONG, "consecutive_5xx": 0, **outlier}
    config["clusters"][0].update(outlier=said, lb="ROUND_ROBIN")
    return config


def shares(proxy: WorkerProxy, config: dict[str, Any]) -> list[tuple[int, int]]:
    """(requests, failures) of each endpoint, in the config's order."""
    cells = proxy.cells.cells
    proxy.wait_quiet()
    found = [proxy.segment.endpoint_stats(cell) for cell in cells.values()]
    return [(f["requests"], f["failures"]) for f in found]


def od(proxy: WorkerProxy) -> dict[str, int]:
    return {k[3:]: v for k, v in proxy.segment.counters().items() if k.startswith("od_") and v}


@pytest.mark.parametrize(
    ("rate", "reason", "nth"),
    [
        ({"success_rate": {"volume": 10}}, "success_rate", 2),
        ({"failure_percentage": {"volume": 10, "percent": 40}}, "failure_percentage", 2),
        ({"failure_percentage": {"volume": 10}}, "failure_percentage", 1),
    ],
)
@pytest.mark.parametrize("retry_on", [None, ["5xx"]])
def test_who_fails_too_often_is_ejected(
    rate: dict[str, Any], reason: str, nth: int, retry_on: list[str] | None
) -> None:
    """Never five times in a row; also where retries hide it from clients."""
    ends = [Often(nth), *(Often() for _ in range(5))]
    with serving(*ends, config=watched(ends, retry_on, interval_ms=500, **rate)) as proxy:
        # enough at a time that an interval has its volume also on a slow machine
        wait_for(lambda: ([proxy.get() for _ in range(120)], od(proxy).get("ejections", 0) == 1)[1], 30)
        assert od(proxy) == {"ejections": 1, f"ejections_{reason}": 1}
        before = ends[0].asked
        assert Counter(proxy.get()[0] for _ in range(30)) == {200: 30}
        assert ends[0].asked == before


@pytest.mark.parametrize(
    ("how", "retry_on"),
    [
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "5xx"),
        (b"", "reset"),
        (b"not http\r\n\r\n", "5xx"),
    ],
)
def test_every_attempt_counts_where_it_was_made(how: bytes, retry_on: str) -> None:
    ends = [Often(1, how), Often()]
    config = watched(ends, [retry_on])
    with serving(*ends, config=config) as proxy:
        assert Counter(proxy.get()[0] for _ in range(20)) == {200: 20}
        assert sorted(shares(proxy, config)) == sorted([(ends[0].asked, ends[0].asked), (20, 0)])
        assert ends[0].asked >= 5


def test_a_connection_that_is_refused_counts() -> None:
    good = Often()
    config = watched([good], ["connect-failure"])
    endpoint = config["clusters"][0]["endpoints"][0]
    config["clusters"][0]["endpoints"].append({**endpoint, "port": free_port()})
    with serving(good, config=config) as proxy:
        assert Counter(proxy.get()[0] for _ in range(20)) == {200: 20}
        bad = max(shares(proxy, config), key=lambda share: share[1])
        assert bad[0] == bad[1] >= 5


def test_half_an_answer_is_one_failure() -> None:
    end = Often(1, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    config = watched([end])
    with serving(end, config=config) as proxy:
        peer = proxy.dial()
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert peer.rest().endswith(b"half")
        assert shares(proxy, config) == [(1, 1)]


def test_a_client_that_goes_says_nothing_of_the_endpoint() -> None:
    asked = threading.Event()
    end = Upstream(lambda peer: (end.request(peer), asked.set(), peer.rest(), None)[-1])
    config = simple_config(end.port, retries={"attempts": 0})
    with serving(end, config=config) as proxy:
        peer = proxy.dial()
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert asked.wait(10)
        peer.close()
        proxy.wait_counter("rq_dc", 1)
        assert shares(proxy, config) == [(0, 0)]
