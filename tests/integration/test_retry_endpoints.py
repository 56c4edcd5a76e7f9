"""Where the retries of one request go, through one worker: to endpoints that it has not been at yet."""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest

from helpers.worker import Peer, Upstream, serving, simple_config

LBS = ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "PEAK_EWMA"]
BROKEN = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\noops"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def broken() -> Upstream:
    made = Upstream()
    made.response = BROKEN
    return made


def retried(*ups: Upstream, attempts: int, lb: str, same: bool = False, **cluster: Any) -> dict[str, Any]:
    retries: dict[str, Any] = {"attempts": attempts, "retry_on": ["5xx"], "backoff_ms": 1}
    if same:
        retries["same"] = True
    config = simple_config(*(up.port for up in ups), retries=retries)
    config["clusters"][0].update(lb=lb, **cluster)
    return config


def visits(*ups: Upstream) -> list[int]:
    return [len(up.heads) for up in ups]


@pytest.mark.parametrize("lb", LBS)
def test_every_endpoint_is_tried_before_one_is_tried_again(lb: str) -> None:
    """Five of six answer 503: with five retries every request finds the one that works."""
    ups = [*(broken() for _ in range(5)), Upstream()]
    with serving(*ups, config=retried(*ups, attempts=5, lb=lb)) as proxy:
        for done in range(1, 21):
            assert proxy.get()[0] == 200
            assert len(ups[5].heads) == done
            assert max(visits(*ups[:5])) <= done


@pytest.mark.parametrize("lb", LBS)
def test_when_all_were_tried_it_is_not_the_last_one(lb: str) -> None:
    order: list[int] = []

    def numbered(up: Upstream) -> Any:
        def handler(peer: Peer) -> None:
            while up.request(peer):
                order.append(up.port)
                peer.send(BROKEN)

        return handler

    ups = [Upstream(), Upstream()]
    for up in ups:
        up.handler = numbered(up)
    with serving(*ups, config=retried(*ups, attempts=6, lb=lb)) as proxy:
        assert proxy.get()[0] == 503
    assert len(order) == 7 and all(a != b for a, b in pairwise(order))


def test_more_attempts_than_an_exchange_remembers() -> None:
    """Twelve endpoints, eleven of them broken: the last eight are avoided."""
    ups = [*(broken() for _ in range(11)), Upstream()]
    with serving(*ups, config=retried(*ups, attempts=60, lb="RANDOM")) as proxy:
        for _ in range(5):
            assert proxy.get()[0] == 200


def test_with_same_the_endpoint_that_failed_may_be_next() -> None:
    """Three attempts at two endpoints: by chance all three are at one in every fourth case."""
    ups = [broken(), broken()]
    with serving(*ups, config=retried(*ups, attempts=2, lb="RANDOM", same=True, budget_ppm=0)) as proxy:
        seen: Counter[int] = Counter()
        before = visits(*ups)
        for _ in range(60):
            assert proxy.get()[0] == 503
            now = visits(*ups)
            seen[now[0] - before[0]] += 1
            before = now
    assert sum(visits(*ups)) == 180
    assert seen[0] + seen[3] > 0 and set(seen) <= {0, 1, 2, 3}


@pytest.mark.parametrize("policy", ["RING_HASH", "MAGLEV"])
def test_hashing_goes_on_to_the_next_ones_of_the_key(policy: str) -> None:
    ups = [*(broken() for _ in range(3)), Upstream()]
    config = retried(*ups, attempts=3, lb=policy, hash={"on": "header", "name": "x-key", "size": 1031})
    with serving(*ups, config=config) as proxy:
        for key in range(10):
            assert proxy.get(more=f"x-key: {key}\r\n")[0] == 200
            assert max(visits(*ups)) == key + 1


def test_connections_that_fail_count_as_tried() -> None:
    with ExitStack() as stack:
        dead = [stack.enter_context(socket.socket()) for _ in range(3)]
        for sock in dead:
            sock.bind(("127.0.0.1", 0))  # bound and not listening: refused
        up = Upstream()
        config = retried(up, attempts=3, lb="RANDOM")
        config["clusters"][0]["endpoints"] += [
            {"address": "127.0.0.1", "port": sock.getsockname()[1]} for sock in dead
        ]
        with serving(up, config=config) as proxy:
            for _ in range(20):
                assert proxy.get()[0] == 200
