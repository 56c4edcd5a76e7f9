"""Mirrors through one worker: copies are what was sent, their answers nobody's, and no request waits."""

from __future__ import annotations

import gzip
import math
import threading
from typing import Any

import pytest

from fastmesh._core.shm.segment import W_DRAINING
from helpers import free_port, wait_for
from helpers.h2origin import Origin
from helpers.h2raw import dial
from helpers.worker import Peer, Upstream, WorkerProxy, serving, simple_config


def mirrored(main: Upstream, *shadows: Upstream, ppm: int = 1_000_000, **route: Any) -> dict[str, Any]:
    names = [f"shadow{i}" for i in range(len(shadows))]
    config = simple_config(main.port, mirrors=[{"cluster": n, "ppm": ppm} for n in names], **route)
    for name, up in zip(names, shadows, strict=True):
        config["clusters"].append(
            {"name": name, "endpoints": [{"address": "127.0.0.1", "port": up.port}], "protocol": "as_client"}
        )
    return config


def test_a_copy_is_what_was_sent() -> None:
    main, shadow = Upstream(), Upstream()
    main.response = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmain"
    with serving(main, shadow, config=mirrored(main, shadow)) as proxy:
        assert proxy.get("/a?b=c", more="X-Own: 1\r\n")[2] == b"main"
        wait_for(lambda: shadow.heads)
        proxy.wait_quiet()
        same = [
            sorted(line for line in head.split(b"\r\n") if not line.startswith(b"x-envoy-expected"))
            for head in (main.heads[0], shadow.heads[0])
        ]
        assert same[0] == same[1] and b"X-Own: 1" in same[0]
        assert (proxy.counter("mirror"), proxy.counter("rq_total"), proxy.counter("rq_done")) == (1, 1, 1)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_is_copied(framing: str) -> None:
    main, shadow = Upstream(), Upstream()
    body = gzip.compress(bytes(range(256)) * 100)
    with serving(main, shadow, config=mirrored(main, shadow)) as proxy:
        peer = proxy.dial()
        if framing == "length":
            peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        else:
            peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            for at in range(0, len(body), 100):
                part = body[at : at + 100]
                peer.send(b"%x\r\n" % len(part) + part + b"\r\n")
            peer.send(b"0\r\n\r\n")
        assert peer.answer()[0] == 200
        wait_for(lambda: shadow.bodies)
        assert main.bodies == shadow.bodies == [body]


def test_http2_is_copied_as_http2() -> None:
    main, shadow = Upstream(), Upstream()
    config = mirrored(main, shadow)
    config["clusters"][1]["protocol"] = "http1"
    with serving(main, shadow, config=config) as proxy:
        client = dial(proxy.port)
        answer = client.answer(client.request("POST", "/x", [("te", "trailers")], body=b"hello"))
        assert answer.status == 200
        wait_for(lambda: shadow.bodies)
        assert main.bodies == shadow.bodies == [b"hello"]
        client.close()


def test_a_mirror_that_speaks_http2() -> None:
    main, shadow = Upstream(), Origin()
    config = simple_config(main.port, mirrors=[{"cluster": "shadow"}])
    endpoint = {"address": "127.0.0.1", "port": shadow.port}
    config["clusters"].append({"name": "shadow", "endpoints": [endpoint], "protocol": "h2"})
    with serving(main, shadow, config=config) as proxy:  # type: ignore[arg-type]
        for _ in range(3):
            peer = proxy.dial()
            peer.send(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
            assert peer.answer()[0] == 200
        wait_for(lambda: len(shadow.requests) == 3)
        proxy.wait_quiet()
        assert {r[":path"] for r in shadow.requests} == {"/p"}
        assert proxy.counter("mirror_failed") == 0


def test_a_mirror_that_never_answers_is_waited_for_by_nobody() -> None:
    """The request's answer comes although the copy is stuck; the route's timeout ends the copy."""
    stuck = threading.Event()

    def silent(peer: Peer) -> None:
        peer.head()
        stuck.set()
        peer.rest()

    main, shadow = Upstream(), Upstream(silent)
    with serving(main, shadow, config=mirrored(main, shadow, timeout_ms=300)) as proxy:
        assert [proxy.get()[0] for _ in range(5)] == [200] * 5
        assert stuck.wait(10)
        proxy.wait_counter("mirror_failed", 5)
        proxy.wait_quiet()
        assert proxy.counter("rq_timeout") == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Oh\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        b"garbage\r\n\r\n",
        b"",
    ],
)
def test_whatever_a_mirror_says_is_thrown_away(answer: bytes) -> None:
    def say(peer: Peer) -> None:
        peer.head()
        peer.send(answer)

    main, shadow = Upstream(), Upstream(say)
    with serving(main, shadow, config=mirrored(main, shadow)) as proxy:
        for _ in range(3):
            status, fields, body = proxy.get()
            assert (status, body) == (200, b"ok") and "content-length" in fields
        wait_for(lambda: shadow.connections >= 3)
        proxy.wait_quiet()
        assert proxy.counter("mirror") == 3


def test_a_mirror_that_nobody_serves() -> None:
    main = Upstream()
    config = mirrored(main)
    config["tables"][0]["virtual_hosts"][0]["routes"][0]["mirrors"] = [{"cluster": "dead"}]
    config["clusters"].append({"name": "dead", "endpoints": [{"address": "127.0.0.1", "port": free_port()}]})
    with serving(main, config=config) as proxy:
        assert proxy.get()[0] == 200
        proxy.wait_counter("mirror_failed", 1)
        proxy.wait_quiet()
    other = Upstream()
    with serving(other, config=simple_config(other.port, mirrors=[{"cluster": "nobody"}])) as proxy:
        assert proxy.get()[0] == 200 and proxy.counter("mirror_skipped") == 1


def test_what_the_replay_buffer_does_not_hold_is_not_mirrored() -> None:
    main, shadow = Upstream(), Upstream()
    with serving(main, shadow, config=mirrored(main, shadow)) as proxy:
        peer = proxy.dial()
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
        assert peer.answer()[0] == 200
        trailed = (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-T: 1\r\n\r\n"
        )
        peer.send(trailed)
        assert peer.answer()[0] == 200
        assert proxy.counter("mirror_skipped") == 2 and shadow.connections == 0


def test_the_limit_of_the_mirrors_cluster_bounds_the_copies() -> None:
    def silent(peer: Peer) -> None:
        peer.rest()

    main, shadow = Upstream(), Upstream(silent)
    config = mirrored(main, shadow)
    config["clusters"][1]["max_requests"] = 2
    with serving(main, shadow, config=config) as proxy:
        assert [proxy.get()[0] for _ in range(6)] == [200] * 6
        assert (proxy.counter("mirror"), proxy.counter("mirror_skipped")) == (2, 4)


def test_several_mirrors_and_a_share() -> None:
    main, a, b = Upstream(), Upstream(), Upstream()
    n, share = 600, 0.25
    with serving(main, a, b, config=mirrored(main, a, b, ppm=int(share * 1_000_000))) as proxy:
        peer = proxy.dial()
        for _ in range(n):
            peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.answer()[0] == 200
        proxy.wait_quiet()
        for up in (a, b):
            assert abs(len(up.heads) - n * share) <= 6 * math.sqrt(n * share * (1 - share))
        assert proxy.counter("mirror") == len(a.heads) + len(b.heads)


def test_a_worker_that_drains_takes_its_copies_along() -> None:
    drained = threading.Event()
    done = threading.Event()

    def slow(peer: Peer) -> None:
        peer.head()
        assert drained.wait(10)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        done.set()

    main, shadow = Upstream(), Upstream(slow)
    proxy = WorkerProxy(mirrored(main, shadow))
    try:
        assert proxy.get()[0] == 200
        wait_for(lambda: shadow.connections == 1)
        proxy.drain()
        wait_for(lambda: proxy.segment.worker(0)["state"] == W_DRAINING)
        assert proxy.alive
        drained.set()
        assert proxy.wait_exit() == 0 and done.is_set()
        assert proxy.counter("mirror_failed") == 0
    finally:
        proxy.close()
        main.close()
        shadow.close()
