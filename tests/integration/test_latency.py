"""PEAK_EWMA through one worker: who is asked, by what was seen of whom."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from helpers import free_port, wait_for
from helpers.worker import Peer, Upstream, serving, simple_config

SLOW = 0.3  # seconds: ten times what an endpoint is thought to take that nobody has asked


class Timed(Upstream):
    """Answers when `wait` has passed or its gate is opened; counts."""

    def __init__(self, answer: str = "200 OK", wait: float = 0.0) -> None:
        super().__init__(self.serve)
        self.line = answer
        self.wait = wait
        self.asked = 0
        self.gate = threading.Event()

    def serve(self, peer: Peer) -> None:
        while self.request(peer):
            self.asked += 1
            self.gate.wait(self.wait)
            peer.send(f"HTTP/1.1 {self.line}\r\nContent-Length: 2\r\n\r\nok".encode())


def balanced(*ports: int, **route: Any) -> dict[str, Any]:
    config = simple_config(*ports, **route)
    config["clusters"][0].update(lb="PEAK_EWMA", decay_ms=3_600_000)  # what was seen stays for this test
    return config


def test_a_slow_endpoint_is_left_alone() -> None:
    slow, quick = Timed(wait=SLOW), Timed()
    with serving(slow, quick, config=balanced(slow.port, quick.port)) as proxy:
        # at first both look alike; the slow one is slow once at the most
        for _ in range(40):
            assert proxy.get()[0] == 200
        assert slow.asked <= 1 and quick.asked >= 39


def test_an_endpoint_that_becomes_slow_is_left_alone_at_once() -> None:
    one, two = Timed(), Timed()
    config = balanced(one.port, two.port)
    # An answer that the machine has held up is forgotten soon, one that took SLOW is not.
    config["clusters"][0]["decay_ms"] = 2000
    with serving(one, two, config=config) as proxy:
        proxy.get()
        first, other = (one, two) if one.asked else (two, one)
        first.wait = SLOW
        before = first.asked
        while first.asked == before:
            proxy.get()
        seen = first.asked
        for _ in range(15):
            proxy.get()
        assert first.asked == seen and other.asked >= 15


@pytest.mark.parametrize("line", ["503 Service Unavailable", "429 Too Many Requests", "502 Bad", "504 Late"])
def test_who_says_no_quickly_does_not_get_all(line: str) -> None:
    broken, sound = Timed(line), Timed()
    with serving(broken, sound, config=balanced(broken.port, sound.port)) as proxy:
        statuses = [proxy.get()[0] for _ in range(40)]
        assert broken.asked <= 1 and statuses.count(200) == sound.asked >= 39


def test_errors_of_the_application_are_answers() -> None:
    """They may be the request's fault: where they are quick the endpoint is."""
    errs, slow = Timed("500 Internal Server Error"), Timed(wait=SLOW)
    with serving(errs, slow, config=balanced(errs.port, slow.port)) as proxy:
        for _ in range(30):
            proxy.get()
        assert slow.asked <= 1 and errs.asked >= 29


def test_who_refuses_connections_is_asked_once() -> None:
    sound = Timed()
    config = balanced(free_port(), sound.port)
    with serving(sound, config=config) as proxy:
        statuses = [proxy.get()[0] for _ in range(40)]
        assert statuses.count(200) >= 39
        assert sound.asked == statuses.count(200)


def test_a_client_that_gives_up_tells_too() -> None:
    silent, other = Timed(wait=60), Timed(wait=SLOW / 3)
    with serving(silent, other, config=balanced(silent.port, other.port)) as proxy:
        clients = [proxy.dial() for _ in range(2)]
        for peer in clients:
            peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: silent.asked == other.asked == 1)  # the second to the one that is not busy
        time.sleep(SLOW)  # it is the time that passes which is learnt
        for peer in clients:
            peer.close()
        proxy.wait_quiet()
        # the other one takes longer than an endpoint of which nothing is known
        for _ in range(4):
            assert proxy.get()[0] == 200
        assert silent.asked == 1
        silent.gate.set()


def test_a_request_that_times_out_tells_too() -> None:
    silent, quick = Timed(wait=60), Timed()
    config = balanced(silent.port, quick.port, timeout_ms=200)
    with serving(silent, quick, config=config) as proxy:
        statuses = [proxy.get()[0] for _ in range(40)]
        assert silent.asked <= 1 and statuses.count(200) >= 39
        silent.gate.set()
