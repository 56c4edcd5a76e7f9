"""The time that a request has, from its route or its caller; what is left of it goes on with each attempt."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import pytest

from helpers import wait_for
from helpers.h2origin import Origin
from helpers.worker import Peer, Upstream, WorkerProxy, serving, simple_config

NAME = "x-envoy-expected-rq-timeout-ms"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def told(head: bytes) -> int | None:
    """What an upstream was told, in ms."""
    for line in head.decode().split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == NAME:
            return int(value)
    return None


@pytest.mark.parametrize(
    ("caller", "route", "least", "most"),
    [
        (None, {}, None, None),
        (5000, {}, 4000, 5000),
        (None, {"timeout_ms": 3000}, 2000, 3000),
        (5000, {"timeout_ms": 3000}, 2000, 3000),
        (3000, {"timeout_ms": 5000}, 2000, 3000),
        (5000, {"retries": {"attempts": 1, "per_try_timeout_ms": 700}}, 700, 700),
        (None, {"retries": {"attempts": 1, "per_try_timeout_ms": 700}}, 700, 700),
        (600, {"timeout_ms": 5000, "retries": {"attempts": 1, "per_try_timeout_ms": 700}}, 1, 600),
        (9_999_999_999, {}, 9_999_990_000, 9_999_999_999),
    ],
)
def test_what_an_upstream_is_told(
    caller: int | None, route: dict[str, Any], least: int | None, most: int | None
) -> None:
    up = Upstream()
    with serving(up, config=simple_config(up.port, **route)) as proxy:
        assert proxy.get(more=f"{NAME}: {caller}\r\n" if caller else "")[0] == 200
        ms = told(up.heads[0])
        assert ms == least if least is None else least <= ms <= most  # type: ignore[operator]


@pytest.mark.parametrize("value", ["", "x", "-1", "1s", "1.5", "99999999999", "0x10"])
def test_what_is_no_time_says_nothing_and_goes_no_further(value: str) -> None:
    up = Upstream()
    with serving(up) as proxy:
        assert proxy.get(more=f"{NAME}: {value}\r\n")[0] == 200
        assert NAME not in up.heads[0].decode().lower()


def test_a_request_whose_time_is_over_is_never_dialled() -> None:
    up = Upstream()
    with serving(up, log=True) as proxy:
        status, _, body = proxy.get(more=f"{NAME}: 0\r\n")
        assert (status, body) == (504, b"upstream request timeout\n")
        record = wait_for(lambda: proxy.segment.log_records(10))[0]
        assert (record["flags"], record["attempts"]) == (128, 0)
        assert proxy.counter("up_cx_total") == 0 and up.connections == 0


def test_nobody_waits_longer_than_its_caller() -> None:
    up = Upstream(lambda peer: peer.rest())
    with serving(up) as proxy:
        assert proxy.get(more=f"{NAME}: 150\r\n")[0] == 504


def test_retries_are_cut_to_what_is_left() -> None:
    """Each attempt is told less, and none begins when the time is over."""
    up = Upstream()
    seen: list[int] = []

    def broken(peer: Peer) -> None:
        while head := up.request(peer):
            seen.append(told(head) or -1)
            threading.Event().wait(0.08)  # a slow application
            peer.send(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")

    up.handler = broken
    route = {"retries": {"attempts": 50, "retry_on": ["5xx"], "backoff_ms": 20}}
    with serving(up, config=simple_config(up.port, **route)) as proxy:
        assert proxy.get(more=f"{NAME}: 600\r\n")[0] == 504
        assert 2 <= len(seen) <= 8
        assert all(a > b > 0 for a, b in itertools.pairwise(seen))


def test_http2_carries_it_too() -> None:
    origin = Origin()
    config = simple_config(origin.port)
    config["clusters"][0]["protocol"] = "h2"
    with serving(origin, config=config) as proxy:  # type: ignore[arg-type]
        assert proxy.get(more=f"{NAME}: 5000\r\n")[0] == 200
        assert 4000 <= int(origin.requests[0][NAME]) <= 5000


class Hop:
    """An application that calls the next one through its own proxy and passes on the header that it got."""

    def __init__(self, following: WorkerProxy | None) -> None:
        self.following = following
        self.started: list[int | None] = []
        self.upstream = Upstream(self.run)

    def run(self, peer: Peer) -> None:
        while head := self.upstream.request(peer):
            left = told(head)
            self.started.append(left)
            status = 200
            if self.following is None:
                threading.Event().wait(0.3)  # the leaf is slow
            else:
                # naive: each application tries twice
                for _ in range(2):
                    status = self.following.get(more=f"{NAME}: {left}\r\n")[0]
                    if status == 200:
                        break
            peer.send(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)


def test_a_chain_of_four_hops_starts_nothing_after_the_deadline() -> None:
    """A client with 500 ms, a leaf that takes 300 ms and a connection that answers no sooner."""
    leaf = Hop(None)
    with serving(leaf.upstream, config=simple_config(leaf.upstream.port)) as d:
        third = Hop(d)
        with serving(third.upstream, config=simple_config(third.upstream.port)) as c:
            second = Hop(c)
            with serving(second.upstream, config=simple_config(second.upstream.port)) as b:
                first = Hop(b)
                with serving(first.upstream, config=simple_config(first.upstream.port)) as a:
                    assert a.get(more=f"{NAME}: 500\r\n")[0] == 200
                    assert a.get(more=f"{NAME}: 200\r\n")[0] == 504
                    for proxy in (a, b, c, d):
                        proxy.wait_quiet()
    budgets = [hop.started for hop in (first, second, third, leaf)]
    assert all(left is not None and 0 < left <= 500 for each in budgets for left in each)
    # Along the chain it only becomes less.
    assert budgets[0][0] >= budgets[1][0] >= budgets[2][0] >= budgets[3][0]  # type: ignore[operator]


DEADLINE = "x-fastmesh-deadline"


def of_kind(kind: str, *ports: int, **route: Any) -> dict[str, Any]:
    config = simple_config(*ports, **route)
    config["listeners"][0]["kind"] = kind
    return config


def absolute(head: bytes) -> int | None:
    for line in head.decode().split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == DEADLINE:
            return int(value)
    return None


def test_an_application_is_told_when_its_time_ends_and_its_own_sidecar_believes_it() -> None:
    """It has spent most of its time when it calls; the span that it passes on does not say so."""
    leaf = Upstream()
    with serving(leaf, config=of_kind("outbound", leaf.port)) as out:
        statuses: list[int] = []

        def application(peer: Peer) -> None:
            head = app.request(peer)
            ends, span = absolute(head), told(head)
            assert ends is not None and span is not None
            assert abs(time.time() * 1000 + span - ends) < 1000  # the same moment, said in two ways
            lines = f"{NAME}: {span}\r\n{DEADLINE}: {ends}\r\n"
            statuses.append(out.get(more=lines)[0])
            threading.Event().wait(max(0.0, ends / 1000 - time.time()) + 0.01)
            statuses.append(out.get(more=lines)[0])
            peer.send(OK)

        app = Upstream(application)
        with serving(app, config=of_kind("inbound", app.port)) as inbound:
            assert inbound.get(more=f"{NAME}: 400\r\n")[0] == 504
            wait_for(lambda: len(statuses) == 2)
            assert statuses == [200, 504] and len(leaf.heads) == 1
            assert absolute(leaf.heads[0]) is None  # another host's clock is not to be compared with
            assert 0 < (told(leaf.heads[0]) or 0) <= 400


@pytest.mark.parametrize("kind", ["inbound", "gateway"])
def test_another_hosts_clock_is_not_believed(kind: str) -> None:
    up = Upstream()
    with serving(up, config=of_kind(kind, up.port)) as proxy:
        assert proxy.get(more=f"{DEADLINE}: 1\r\n")[0] == 200
        assert absolute(up.heads[0]) is None


@pytest.mark.parametrize("value", ["", "x", "-1", "99999999999999", "1.5"])
def test_an_end_that_is_no_time_says_nothing(value: str) -> None:
    up = Upstream()
    with serving(up, config=of_kind("outbound", up.port)) as proxy:
        assert proxy.get(more=f"{DEADLINE}: {value}\r\n")[0] == 200
        assert proxy.get(more=f"{DEADLINE}: 1000\r\n")[0] == 504
