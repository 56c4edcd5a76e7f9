"""What goes wrong on either side of a worker, and what each side gets to see of it."""

from __future__ import annotations

import socket
import threading

import pytest

from helpers.certs import Authority
from helpers.net import wait_for
from helpers.worker import Peer, Upstream, WorkerProxy, listening, serving, simple_config

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def status_of(data: bytes) -> int:
    return int(data.split(b" ", 2)[1])


BAD_REQUESTS = {
    "cl and te": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two cl": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "cl list": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
    "cl sign": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc", 400),
    "te not chunked": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    "te twice": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "te in 1.0": (b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "obs-fold": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
    "bare lf": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "bare cr": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400),
    "nul": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", 400),
    "space before colon": (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "version": (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "connect": (b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", 501),
    "expect": (b"POST / HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\nContent-Length: 0\r\n\r\n", 417),
    "connection names host": (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close, Host\r\n\r\n", 400),
    "head of 70 KiB": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    "120 fields": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 120 + b"\r\n", 431),
    "target of 20 KiB": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "garbage of HTTP": (b"\x00\x01 / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
}


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"INVALID CONNECTION PREFACE\r\n\r\n",
        b"PRI * HTTP\r\n\r\n",
    ],
)
def test_what_does_not_name_http_is_closed_without_an_answer_in_it(data: bytes):
    with serving(Upstream()) as proxy:
        client = proxy.dial()
        client.send(data)
        assert client.rest() == b""
        assert proxy.counter("rq_bad") == 1


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_answered_closed_and_never_reaches_an_upstream(name: str):
    data, status = BAD_REQUESTS[name]
    up = Upstream()
    with serving(up, log=True) as proxy:
        client = proxy.dial()
        threading.Thread(
            target=lambda: client.send(data + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"), daemon=True
        ).start()
        answer = client.rest()
        assert status_of(answer) == status
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in answer.lower()
        assert up.connections == 0
        proxy.wait_counter("rq_bad", 1)
        records = wait_for(lambda: proxy.segment.log_records(10))
        assert (records[0]["status"], records[0]["flags"]) == (status, 2048)  # DPE
        assert records[0]["details"].startswith("http1.")


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n",
        b"5\r\nhelloX",
        b"-1\r\n",
        b"fffffffffffffffff\r\n",
        b"3\nabc\r\n",
        b"0\r\nHost: evil\r\n\r\n",
    ],
)
def test_a_bad_chunked_body_never_completes_at_the_upstream(body: bytes):
    up = Upstream()
    tails: list[bytes] = []

    def handler(peer: Peer) -> None:
        peer.head()
        tails.append(peer.rest())

    up.handler = handler
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        answer = client.rest()
        assert status_of(answer) == 400 and b"connection: close" in answer.lower()
        if up.connections:
            wait_for(lambda: tails)
            assert not tails[0].endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "part",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly some",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_truncated_answer_does_not_look_complete(part: bytes, version: bytes):
    up = Upstream()
    up.handler = lambda peer: (peer.head(), peer.send(part), None)[2]
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"GET / HTTP/%s\r\nHost: x\r\n\r\n" % version)
        was_reset = False
        data = b""
        try:
            while chunk := client.sock.recv(65536):
                data += chunk
        except ConnectionResetError:
            was_reset = True
        head, _, body = data.partition(b"\r\n\r\n")
        if b"ontent-" in head:
            assert len(body) < 100
        elif b"chunked" in head.lower():
            assert not body.endswith(b"0\r\n\r\n")
        else:
            assert was_reset, "an HTTP/1.0 client takes a FIN for the end"
        proxy.wait_counter("rq_upstream_truncated", 1)


@pytest.mark.parametrize(
    ("answer", "status", "flag"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", 502, 4096),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 502, 4096),
        (b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n", 502, 4096),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000, 502, 4096),
        (b"", 503, 256),
        (b"HTTP/1.1 200", 503, 256),
    ],
)
def test_an_upstream_that_answers_garbage_or_nothing(answer: bytes, status: int, flag: int):
    up = Upstream()
    up.handler = lambda peer: (peer.head(), peer.send(answer), None)[2]
    with serving(up, log=True) as proxy:
        client = proxy.dial()
        for _ in range(2):  # the client's connection goes on
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.answer()[0] == status
        record = wait_for(lambda: proxy.segment.log_records(10))[0]
        assert (record["status"], record["flags"]) == (status, flag)


def test_an_upstream_that_resets():
    up = Upstream()
    up.handler = lambda peer: (peer.head(), peer.reset(), None)[2]
    with serving(up) as proxy:
        assert proxy.get()[0] == 503


def test_nobody_listens_at_the_endpoint():
    dead = listening()
    port = dead.getsockname()[1]
    dead.close()
    with serving(config=simple_config(port), log=True) as proxy:
        status, _, body = proxy.get()
        assert status == 503 and b"connect" in body
        record = wait_for(lambda: proxy.segment.log_records(10))[0]
        assert record["flags"] == 2  # UF
        assert record["upstream_host"] == f"127.0.0.1:{port}"


def test_connect_failures_are_retried_elsewhere_when_the_route_says_so():
    dead = listening()
    port = dead.getsockname()[1]
    dead.close()
    up = Upstream()
    config = simple_config(port, up.port, retries={"attempts": 2, "retry_on": ["connect-failure"]})
    with serving(up, config=config) as proxy:
        assert {proxy.get()[0] for _ in range(20)} == {200}
        assert proxy.counter("rq_retry") > 0


def test_a_client_that_leaves_takes_its_upstream_request_along():
    up = Upstream()
    gone = threading.Event()

    def handler(peer: Peer) -> None:
        peer.head()
        peer.rest()
        gone.set()

    up.handler = handler
    with serving(up, log=True) as proxy:
        client = proxy.dial()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: up.connections)
        client.close()
        assert gone.wait(10)
        proxy.wait_counter("rq_dc", 1)
        record = wait_for(lambda: proxy.segment.log_records(10))[0]
        assert record["flags"] == 64  # DC


def test_an_early_answer_reaches_the_client_that_is_still_sending():
    up = Upstream()

    def handler(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")

    up.handler = handler
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 100_000)
        status, fields, body = client.answer()
        assert (status, body, fields["connection"]) == (413, b"big", "close")


# ---- reused connections that the upstream has closed --------------------------------------------------------------------------------


def once_then_close(peer: Peer, reset: bool = False, read_second: bool = True) -> None:
    """Answer one request; read the next one and close without a word."""
    peer.head()
    peer.send(OK)
    if read_second:
        peer.head()
    if reset:
        peer.reset()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE", b"HEAD"])
def test_an_idempotent_request_on_a_dead_reused_connection_is_repeated_at_once(reset: bool, method: bytes):
    up = Upstream()
    heads: list[bytes] = []

    def handler(peer: Peer) -> None:
        first = peer.head()
        heads.append(first)
        peer.send(OK if not first.startswith(b"HEAD") else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        if len(heads) == 1:
            heads.append(peer.head())
            if reset:
                peer.reset()
            return
        peer.rest()

    up.handler = handler
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.answer()[0] == 200
        client.send(method + b" /2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status_of(client.head()) == 200
        assert heads[1].split(b" ")[1] == heads[2].split(b" ")[1] == b"/2"
        assert proxy.counter("rq_retry_reused") == 1


def test_a_post_that_the_upstream_has_taken_is_not_repeated():
    up = Upstream()
    up.handler = once_then_close
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.answer()[0] == 200
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        assert client.answer()[0] == 503
        assert proxy.counter("rq_retry_reused") == 0


def test_idle_connections_that_the_upstream_closes_cause_no_error_whatever_the_method():
    """An upstream like uvicorn, that closes what is idle: a connection whose end was seen takes no further request, of whatever method.

    An end that crosses a request is the matter of the tests above, and of test_keep_alive.py.
    """
    up = Upstream()
    with serving(up) as proxy:
        client = proxy.dial()
        assert proxy.get()[0] == 200
        up.peers[-1].sock.shutdown(2)
        proxy.wait_counter("up_cx_idle_closed", 1)
        for i in range(60):
            method = (b"POST", b"GET")[i % 2]
            body = b"Content-Length: 1\r\n\r\nx" if method == b"POST" else b"\r\n"
            client.send(method + b" / HTTP/1.1\r\nHost: x\r\n" + body)
            assert client.answer()[0] == 200, i
            before = proxy.counter("up_cx_idle_closed")
            up.peers[-1].sock.shutdown(2)
            proxy.wait_counter("up_cx_idle_closed", before + 1)
        assert up.connections == 61


# ---- time -----------------------------------------------------------------------------------------------------------------------------


def test_a_request_timeout_is_504_ut():
    up = Upstream()
    up.handler = lambda peer: (peer.head(), peer.rest(), None)[2]
    with serving(up, log=True, timeout_ms=100) as proxy:
        status, _, body = proxy.get()
        assert (status, body) == (504, b"upstream request timeout\n")
        assert wait_for(lambda: proxy.segment.log_records(10))[0]["flags"] == 128


def test_a_slow_head_is_408_and_others_are_served_meanwhile():
    up = Upstream()
    with serving(up, options={"header_timeout_ms": 300}) as proxy:
        slow = [proxy.dial() for _ in range(50)]
        for peer in slow:
            peer.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert proxy.get()[0] == 200
        for peer in slow:
            assert status_of(peer.rest()) == 408
        proxy.wait_counter("rq_head_timeout", 50)


def test_an_idle_connection_is_closed_without_a_word():
    up = Upstream()
    with serving(up, options={"idle_timeout_ms": 100}) as proxy:
        client = proxy.dial()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.answer()[0] == 200
        assert client.rest() == b""


def test_an_exchange_on_which_nothing_moves_ends():
    up = Upstream()
    up.handler = lambda peer: (peer.head(), peer.rest(), None)[2]
    with serving(up, options={"stream_idle_timeout_ms": 150}, log=True) as proxy:
        assert proxy.get()[0] == 504
        assert wait_for(lambda: proxy.segment.log_records(10))[0]["flags"] & 16384  # SI
        client = proxy.dial()
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        assert status_of(client.rest()) == 408


# ---- bounds ---------------------------------------------------------------------------------------------------------------------------


def test_a_slow_reader_of_200_mb_costs_a_bounded_amount_of_memory():
    up = Upstream()
    total = 200_000_000

    def handler(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        block = bytes(1 << 20)
        left = total
        while left:
            left -= peer.sock.send(block[: min(left, len(block))])

    up.handler = handler
    with serving(up) as proxy:
        client = proxy.dial()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        client.head()
        wait_for(lambda: proxy.counter("pauses"))
        most = 0
        got = len(client.buf)
        while got < total:
            got += len(client.sock.recv(1 << 18))
            most = max(most, proxy.segment.worker(0)["mem_bytes"])
        assert got == total
        assert most < 2 << 20


def test_a_slow_upstream_stops_the_sending_client():
    up = Upstream()
    release = threading.Event()

    def handler(peer: Peer) -> None:
        peer.head()
        release.wait(10)
        left = 50_000_000 - len(peer.buf)
        while left:
            left -= len(peer.sock.recv(1 << 20))
        peer.send(OK)

    up.handler = handler
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n")
        sender = threading.Thread(target=client.send, args=(bytes(50_000_000),), daemon=True)
        sender.start()
        wait_for(lambda: proxy.counter("pauses"))
        assert proxy.segment.worker(0)["mem_bytes"] < 2 << 20
        release.set()
        assert client.answer()[0] == 200
        sender.join(10)


def test_above_the_connection_cap_connections_are_closed_and_counted():
    up = Upstream()
    with serving(up, options={"max_connections": 10}) as proxy:
        peers = [proxy.dial() for _ in range(15)]
        wait_for(lambda: proxy.counter("cx_overflow") == 5)
        served = 0
        for peer in peers:
            try:
                peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                served += peer.answer()[0] == 200
            except (ConnectionError, IndexError):
                pass
        assert served == 10


# ---- config and drain -----------------------------------------------------------------------------------------------------------------


def test_before_the_first_config_connections_wait():
    up = Upstream()
    proxy = WorkerProxy(None)
    try:
        client = proxy.dial()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        proxy.publish(simple_config(up.port))
        assert client.answer()[0] == 200
    finally:
        proxy.close()
        up.close()


def test_without_a_config_for_long_requests_are_refused_until_there_is_one():
    up = Upstream()
    proxy = WorkerProxy(None, {"config_wait_ms": 50})
    try:
        client = proxy.dial()
        early = proxy.dial()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        status, fields, body = client.answer()
        assert (status, fields["connection"], body) == (503, "close", b"no configuration yet\n")
        proxy.publish(simple_config(up.port))
        early.send(
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        )  # who was accepted without a config is not routed by a later one
        assert early.answer()[0] == 503
        assert proxy.get()[0] == 200
    finally:
        proxy.close()
        up.close()


def test_a_plaintext_connection_does_not_outlive_permissive_mode():
    up = Upstream()
    leaf = Authority().spiffe()
    config = simple_config(up.port)
    config["listeners"][0].update(tls=["id"], tls_mode="permissive")
    config["tls"] = [{"name": "id", "server": True, "cert": leaf.cert, "key": leaf.key}]
    with serving(up, config=config) as proxy:
        client = proxy.dial()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.answer()[0] == 200
        config["listeners"][0]["tls_mode"] = "strict"
        proxy.publish(config)
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.rest() == b""
        assert proxy.counter("tls_plaintext_refused") == 1
        assert len(up.heads) == 1


def test_a_new_config_takes_over_under_load_and_cuts_nothing():
    one, two = Upstream(), Upstream()
    two.response = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo"
    with serving(one, two, config=simple_config(one.port)) as proxy:
        client = proxy.dial()
        stop = threading.Event()
        bodies: list[bytes] = []

        def load() -> None:
            while not stop.is_set():
                client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                bodies.append(client.answer()[2])

        thread = threading.Thread(target=load)
        thread.start()
        wait_for(lambda: bodies)
        for i in range(20):
            proxy.publish(simple_config((two if i % 2 == 0 else one).port))
        proxy.publish(simple_config(two.port))
        seen = len(bodies)
        wait_for(lambda: len(bodies) > seen + 2)
        stop.set()
        thread.join()
        assert set(bodies) == {b"ok", b"two"}
        assert bodies[-1] == b"two"


def test_no_route_and_no_cluster_say_so():
    up = Upstream()
    config = simple_config(up.port)
    config["tables"][0]["virtual_hosts"][0]["domains"] = ["known"]
    with serving(up, config=config, log=True) as proxy:
        assert proxy.get(host="unknown")[0] == 404
        assert proxy.get(host="known:8080")[0] == 200
        assert wait_for(lambda: proxy.segment.log_records(10))[0]["flags"] == 8  # NR


def test_drain_finishes_what_is_in_flight_and_says_close():
    up = Upstream()
    release = threading.Event()

    def handler(peer: Peer) -> None:
        while peer.head():
            release.wait(10)
            peer.send(OK)

    up.handler = handler
    with serving(up, options={"drain_idle_ms": 50}) as proxy:
        idle = proxy.dial()
        busy = proxy.dial()
        queued = None
        busy.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: up.connections)
        queued = proxy.dial()
        queued.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: up.connections == 2)
        proxy.drain()
        assert idle.rest() == b""
        release.set()
        for peer in (busy, queued):
            status, fields, _ = peer.answer()
            assert (status, fields["connection"]) == (200, "close")
        assert proxy.wait_exit() == 0
        proxy.status = None
        proxy.pid = 0
        proxy.__class__ = _Gone


def test_drain_is_bounded():
    up = Upstream()
    up.handler = lambda peer: (peer.head(), peer.rest(), None)[2]
    with serving(up) as proxy:
        client = proxy.dial()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: up.connections)
        proxy.drain(0.2)
        assert proxy.wait_exit() == 0
        proxy.__class__ = _Gone


class _Gone(WorkerProxy):
    """A worker that has left as it was told to."""

    @property
    def alive(self) -> bool:
        return True

    def close(self) -> None:
        self.listener.close()
