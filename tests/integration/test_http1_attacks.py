"""HTTP/1.1 through one worker with clients and upstreams that mean harm, or that do the right thing at the worst time."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from helpers.net import wait_for
from helpers.worker import Peer, Upstream, WorkerProxy, listening, serving, simple_config

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = 8_000_000  # more than both sockets' buffers hold


def small_reader(proxy: WorkerProxy) -> Peer:
    """A client whose kernel takes little before it reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    sock.connect(("127.0.0.1", proxy.port))
    return Peer(sock)


def direct(size: int) -> dict[str, Any]:
    config = simple_config(1)
    route = config["tables"][0]["virtual_hosts"][0]["routes"][0]
    del route["dests"]
    route["direct"] = {"status": 200, "body": b"x" * size}
    return config


def gauges(proxy: WorkerProxy) -> list[tuple[int, int]]:
    """(active, connections) of every endpoint that is known."""
    found = []
    for cell in proxy.segment.cell_tags().values():
        stats = proxy.segment.endpoint_stats(cell)
        found.append((stats["active"], stats["connections"]))
    return found


# ---- bounds ---------------------------------------------------------------------------------------------------------


def test_pipelined_requests_of_a_client_that_does_not_read_cost_little():
    count, size = 3000, 30_000
    with serving(config=direct(size)) as proxy:
        client = small_reader(proxy)
        sender = threading.Thread(target=client.send, args=(GET * count,), daemon=True)
        sender.start()
        wait_for(lambda: proxy.counter("pauses"))
        assert proxy.segment.worker(0)["mem_bytes"] < 2 << 20
        most = 0
        for i in range(count):
            assert len(client.answer()[2]) == size
            if i % 50 == 0:
                most = max(most, proxy.segment.worker(0)["mem_bytes"])
        assert most < 2 << 20
        sender.join(10)


def test_what_is_pipelined_behind_a_slow_request_is_left_in_the_kernel():
    up, clients, quick = Upstream(), 12, 12_000
    up.handler = lambda peer: (peer.head(), peer.rest(), None)[2]
    config = simple_config(up.port)
    routes = config["tables"][0]["virtual_hosts"][0]["routes"]
    routes.insert(0, {"name": "d", "path": {"op": "exact", "value": "/d"}, "direct": {"status": 204}})
    with serving(up, config=config) as proxy:
        peers = [proxy.dial() for _ in range(clients)]
        data = b"GET /d HTTP/1.1\r\nHost: x\r\n\r\n" * quick + GET * 20_000
        for peer in peers:
            threading.Thread(target=suppressed, args=(peer.send, data), daemon=True).start()
            threading.Thread(target=suppressed, args=(peer.rest,), daemon=True).start()
        proxy.wait_counter("rq_total", clients * (quick + 1))
        assert proxy.segment.worker(0)["mem_bytes"] < clients * 17_000 + 500_000  # and what the pool keeps
        for peer in peers:
            peer.reset()


def suppressed(call: Callable[..., object], *args: object) -> None:
    with contextlib.suppress(OSError):
        call(*args)


def test_interim_answers_without_end_are_cut():
    up = Upstream()
    sent = threading.Event()

    def handler(peer: Peer) -> None:
        peer.head()
        for _ in range(2000):
            peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </%s>\r\n\r\n" % (b"x" * 2000))
        peer.send(OK)
        sent.set()

    up.handler = handler
    with serving(up) as proxy:
        client = small_reader(proxy)
        client.send(GET)
        proxy.wait_quiet()
        assert proxy.segment.worker(0)["mem_bytes"] < 1 << 20
        seen = 0
        while (head := client.head()).startswith(b"HTTP/1.1 103 "):
            seen += 1
        assert 8 <= seen <= 100
        assert head.startswith(b"HTTP/1.1 502 ")
        assert not sent.is_set()


def test_buffers_at_their_cap_refuse_and_recover():
    up = Upstream()
    with serving(up, options={"max_memory": 2 << 20}) as proxy:
        hogs = []
        for _ in range(100):
            peer = proxy.dial()
            peer.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Hog: " + b"x" * 30_000)
            hogs.append(peer)
        wait_for(lambda: proxy.segment.worker(0)["mem_bytes"] > 1_800_000)
        try:
            refused = proxy.get()[0]
        except (ConnectionError, IndexError):
            refused = 0  # not even the answer found room
        assert refused in (0, 503)
        for peer in hogs:
            peer.close()
        wait_for(lambda: proxy.segment.worker(0)["connections"] <= 1)
        assert proxy.get()[0] == 200


def test_a_worker_out_of_descriptors_recovers():
    up = Upstream()
    with serving(up) as proxy:
        assert proxy.get()[0] == 200
        have = len(os.listdir(f"/proc/{proxy.pid}/fd"))
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (have + 10, have + 10))
        peers = [proxy.dial() for _ in range(40)]
        for peer in peers:
            peer.send(GET)
        statuses = []
        for peer in peers:  # in order of arrival: those at the end are accepted when those before have left
            statuses.append(peer.answer()[0])
            peer.close()
        assert set(statuses) <= {200, 503}
        assert proxy.get()[0] == 200


@pytest.mark.parametrize(
    "length", [b"9223372036854775807", b"18446744073709551617", b"99999999999999999999", b"-1", b"+1", b"1,1"]
)
def test_lengths_that_no_integer_holds_are_refused(length: bytes):
    up = Upstream()
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\nx")
        assert client.rest().startswith(b"HTTP/1.1 400 ")
        assert up.connections == 0


def test_a_request_without_a_host_has_nowhere_to_be_redirected_to_and_is_logged():
    config = direct(1)
    route = config["tables"][0]["virtual_hosts"][0]["routes"][0]
    del route["direct"]
    route["redirect"] = {"path": "/there", "code": 302}
    with serving(config=config, log=True) as proxy:
        client = proxy.dial()
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.rest().startswith(b"HTTP/1.1 400 ")
        assert wait_for(lambda: proxy.segment.log_records(10))[0]["authority"] == ""


# ---- whose answer is it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"GET", OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
        (b"GET", OK + b"x"),
        (
            b"HEAD",
            b"HTTP/1.1 200 OK\r\nContent-Length: 46\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        ),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
        (
            b"GET",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        ),
    ],
)
def test_bytes_behind_an_answer_never_answer_the_next_request(method: bytes, answer: bytes):
    up = Upstream()

    def handler(peer: Peer) -> None:
        if up.request(peer):
            peer.send(answer if len(up.heads) == 1 else OK)
            peer.rest()

    up.handler = handler
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
        first = client.head()
        if b"chunked" in first:
            assert client.until(b"\r\n\r\n") == b"0\r\n\r\n"
        elif b"ontent-Length: 2\r" in first:
            assert client.exactly(2) == b"ok"
        client.send(GET)
        assert client.answer()[::2] == (200, b"ok")
        assert up.connections == 2


def test_a_post_is_never_sent_twice_when_the_upstream_resets_after_reading_it():
    up = Upstream()
    posts: list[bytes] = []

    def handler(peer: Peer) -> None:
        while head := up.request(peer):
            if head.startswith(b"POST"):
                posts.append(head)
                peer.reset()  # before its kernel has acknowledged anything
                return
            peer.send(OK)

    up.handler = handler
    with serving(up) as proxy:
        client = proxy.dial()
        for _ in range(5):
            for _ in range(3):  # a conversation: acknowledgements wait for answers
                client.send(GET)
                assert client.answer()[0] == 200
            posts.clear()
            client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
            assert client.answer()[0] == 503
            assert len(posts) == 1


def test_a_repeated_request_is_whole_although_its_body_was_on_its_way():
    up = Upstream()
    first_chunk = threading.Event()
    again = threading.Event()
    seen: list[bytes] = []

    def handler(peer: Peer) -> None:
        if up.connections == 1:
            assert up.request(peer)
            peer.send(OK)
            peer.head()
            peer.until(b"hello\r\n")
            first_chunk.set()
            return  # closes
        again.set()
        assert up.request(peer)
        seen.append(up.bodies[-1])
        peer.send(OK)
        peer.rest()

    up.handler = handler
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(GET)
        assert client.answer()[0] == 200
        client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert first_chunk.wait(10) and again.wait(10)
        client.send(b"6\r\n world\r\n")
        client.send(b"0\r\n\r\n")
        assert client.answer()[0] == 200
        assert seen == [b"hello world"]


def test_an_answer_before_the_request_ends_gives_the_upstream_connection_up():
    up = Upstream()

    def handler(peer: Peer) -> None:
        while peer.head():
            peer.send(OK)

    up.handler = handler
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 37\r\n\r\n")
        status, fields, _ = client.answer()
        assert (status, fields["connection"]) == (200, "close")
        client.send(b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n..")
        assert client.rest() == b""
        assert proxy.get()[0] == 200
        assert up.connections == 2


def test_an_upstream_that_speaks_first_is_heard():
    sock = listening()
    sock.listen(0)
    fillers = [socket.create_connection(sock.getsockname()) for _ in range(1)]
    with serving(config=simple_config(sock.getsockname()[1])) as proxy:
        client = proxy.dial()
        client.send(GET)
        proxy.wait_counter("up_cx_total", 1)
        os.kill(proxy.pid, signal.SIGSTOP)  # connected and spoken to before it looks again
        try:
            sock.settimeout(10)
            fillers += [sock.accept()[0] for _ in range(2)]
            fillers[-1].sendall(OK)
        finally:
            os.kill(proxy.pid, signal.SIGCONT)
        assert client.answer()[::2] == (200, b"ok")
    for one in (*fillers, sock):
        one.close()


# ---- the end of connections -----------------------------------------------------------------------------------------


def test_an_answer_reaches_a_client_that_sent_more_than_was_read():
    with serving(config=direct(LARGE)) as proxy:
        client = small_reader(proxy)
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + b"x" * 10_000)
        wait_for(lambda: proxy.counter("rq_done"))
        client.send(b"more that nobody reads")
        assert len(client.answer()[2]) == LARGE


@pytest.mark.parametrize("close", [False, True])
def test_drain_waits_for_answers_that_the_client_has_not_read_yet(close: bool):
    proxy = WorkerProxy(direct(LARGE), {"drain_idle_ms": 20})
    try:
        client = small_reader(proxy)
        idle = proxy.dial()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"Connection: close\r\n" * close + b"\r\n")
        wait_for(lambda: proxy.counter("rq_done"))
        proxy.drain(30)
        assert idle.rest() == b""  # idle connections have been swept
        assert len(client.answer()[2]) == LARGE
        assert proxy.wait_exit() == 0
    finally:
        proxy.close()


def test_drain_ends_when_an_answer_that_began_before_it_is_complete():
    up = Upstream()
    release = threading.Event()

    def handler(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        release.wait(10)
        peer.send(b"cd")
        peer.rest()

    up.handler = handler
    proxy = WorkerProxy(simple_config(up.port), {"drain_idle_ms": 20})
    try:
        client, idle = proxy.dial(), proxy.dial()
        client.send(GET)
        client.head()
        assert client.exactly(2) == b"ab"
        proxy.drain(60)
        assert idle.rest() == b""
        release.set()
        assert client.exactly(2) == b"cd"
        assert proxy.wait_exit() == 0
    finally:
        proxy.close()
        up.close()


def test_the_last_words_in_a_tunnel_arrive_on_both_sides():
    up = Upstream()
    got: list[bytes] = []
    release = threading.Event()
    words = os.urandom(3_000_000)

    def handler(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: w\r\nConnection: Upgrade\r\n\r\n")
        release.wait(10)
        got.append(peer.exactly(len(words)))
        peer.send(words)
        peer.sock.shutdown(socket.SHUT_WR)
        peer.rest()

    up.handler = handler
    with serving(up) as proxy:
        client = small_reader(proxy)
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: w\r\n\r\n")
        assert client.head().startswith(b"HTTP/1.1 101 ")
        release.set()
        client.send(words)
        wait_for(lambda: got)
        client.send(b"not read by anybody")
        assert client.rest() == words
        assert got == [words]


def test_a_client_that_leaves_is_not_the_endpoints_failure():
    up = Upstream()
    gone = threading.Event()
    up.handler = lambda peer: (peer.head(), peer.rest(), gone.set(), None)[3]
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(GET)
        wait_for(lambda: up.connections)
        client.close()
        assert gone.wait(10)
        proxy.wait_counter("rq_dc", 1)
        (cell,) = proxy.segment.cell_tags().values()
        assert proxy.segment.endpoint_stats(cell)["failures"] == 0


# ---- everything at once ---------------------------------------------------------------------------------------------


def chaos_upstream(seed: int) -> Upstream:
    up = Upstream()
    rng = random.Random(seed)
    lock = threading.Lock()
    body = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\nx\r\n" * 500
        + b"0\r\nX-T: 1\r\n\r\n"
    )
    answers = [
        OK,
        OK,
        OK,
        body,
        body[:700],
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"y" * 200_000,
        OK + OK,
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nz",
        b"",
        b"HTTP/1.1 101 S\r\nUpgrade: w\r\nConnection: upgrade\r\n\r\nhello",
    ]

    def serve(peer: Peer) -> None:
        peer.sock.settimeout(2)
        while True:
            with lock:
                answer, how, early = rng.choice(answers), rng.random(), rng.random() < 0.1
            if early:
                if not peer.head():
                    return
            elif not up.request(peer):
                return
            cut = rng.randrange(len(answer) + 1)
            peer.send(answer[:cut])
            peer.send(answer[cut:])
            if how < 0.1:
                peer.reset()
                return
            if how < 0.3 or b"the end" in answer:
                return

    def handler(peer: Peer) -> None:
        with contextlib.suppress(ValueError):  # a chunked request that was cut off
            serve(peer)

    up.handler = handler
    return up


def chaos_client(proxy: WorkerProxy, seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    chunked = (
        b"".join(b"%x\r\n%s\r\n" % (n, b"b" * n) for n in (1, 500, 3, 20_000, 1)) + b"0\r\nX-T: 2\r\n\r\n"
    )
    requests = [
        GET,
        b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"p" * 100_000,
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked,
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked[:-30] + b"zz\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: w\r\n\r\nafter",
        GET * 20,
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + GET,
    ]
    for _ in range(rounds):
        peer = small_reader(proxy) if rng.random() < 0.3 else proxy.dial()
        peer.sock.settimeout(0.2)
        try:
            for _ in range(rng.randrange(1, 4)):
                request = rng.choice(requests)
                if rng.random() < 0.2:
                    request = request[: rng.randrange(len(request))]
                cut = rng.randrange(len(request) + 1)
                peer.send(request[:cut])
                peer.send(request[cut:])
                if rng.random() < 0.7:
                    peer.more()
            if rng.random() < 0.3:
                peer.sock.shutdown(socket.SHUT_WR)
                peer.more()
        except OSError:
            pass
        if rng.random() < 0.3:
            peer.reset()
        else:
            peer.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_happens_nothing_is_left_behind(seed: int):
    ups = [chaos_upstream(seed * 10 + i) for i in range(2)]
    config = simple_config(
        *(up.port for up in ups),
        retries={"attempts": 2, "retry_on": ["connect-failure", "refused-stream"]},
        timeout_ms=400,
    )
    with serving(
        *ups, config=config, log=True, options={"drain_idle_ms": 20, "header_timeout_ms": 1000}
    ) as proxy:
        threads = [threading.Thread(target=chaos_client, args=(proxy, seed * 100 + i, 40)) for i in range(6)]
        for thread in threads:
            thread.start()
        stop = time.monotonic() + 60
        while any(thread.is_alive() for thread in threads) and time.monotonic() < stop:
            proxy.publish(config)
            proxy.segment.log_records(1000)
            threads[0].join(0.2)
        for thread in threads:
            thread.join(60)
        proxy.wait_quiet()
        wait_for(lambda: proxy.segment.worker(0)["connections"] == 0, timeout=20)
        assert proxy.alive
        assert all(active == 0 for active, _ in gauges(proxy))
        proxy.drain(20)
        assert proxy.wait_exit(20) == 0
        assert gauges(proxy) == [(0, 0)] * len(gauges(proxy))
        assert proxy.segment.worker(0)["active"] == 0
        counters = proxy.segment.counters()
        assert counters["cx_total"] == counters["cx_closed"] + counters["cx_overflow"]
        assert counters["rq_total"] == counters["rq_done"]
        proxy.__class__ = Left


class Left(WorkerProxy):
    """A worker that has left as it was told to."""

    @property
    def alive(self) -> bool:
        return True

    def close(self) -> None:
        self.listener.close()
