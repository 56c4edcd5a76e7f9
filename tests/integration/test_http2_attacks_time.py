"""Attacks over HTTP/2 by doing nothing, which time ends, and upstreams that attack: on a worker with short timeouts.

No assertion is about how long anything took: each waits for the event that the timeout brings about.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from helpers import h2raw, wait_for
from helpers.certs import Authority
from helpers.h2origin import Origin, Request
from helpers.h2raw import (
    CONTINUATION,
    DATA,
    ENHANCE_YOUR_CALM,
    HEADERS,
    PREFACE,
    WINDOW_MOST,
    Client,
    dial,
    frame,
    literal,
    literals,
    pseudo,
)  # fmt: skip
from helpers.worker import WorkerProxy, serving
from integration.h2edges import Good, H1Origin, worker_config

SHORT = {"handshake_timeout_ms": 400, "header_timeout_ms": 400, "idle_timeout_ms": 400}
MIB = 1 << 20


def answered_meanwhile(proxy: WorkerProxy) -> None:
    client = dial(proxy.port)
    assert client.get("/direct").body == b"hello"
    client.close()


# ---- slow clients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [b"P", PREFACE[:3], PREFACE[:16], PREFACE[:23]])
def test_half_a_preface_and_nothing_more(part: bytes) -> None:
    with serving(config=worker_config(), options=SHORT) as proxy:
        slow = [dial(proxy.port, preface=False) for _ in range(20)]
        for client in slow:
            client.send(part)
        answered_meanwhile(proxy)
        for client in slow:
            # HTTP/1.1 was still possible: its 408 is as good as nothing
            rest = b""
            while octets := client.sock.recv(65536):
                rest += octets
            assert rest == b"" or rest.startswith(b"HTTP/1.1 408 ") or rest[3:4] == bytes([h2raw.SETTINGS])
            client.close()


def test_nothing_at_all_over_tls() -> None:
    leaf = Authority().leaf(dns=["test"])
    config = worker_config()
    config["listeners"][0].update(tls=["id"], tls_mode="strict")
    config["tls"] = [
        {"name": "id", "server": True, "cert": leaf.cert, "key": leaf.key, "alpn": ["h2", "http/1.1"]}
    ]
    with serving(config=config, options=SHORT) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), 10) as sock:
            assert sock.recv(100) == b""
        wait_for(lambda: proxy.counter("cx_closed") == 1)


@pytest.mark.parametrize("behind", [b"", frame(h2raw.SETTINGS)[:5], frame(h2raw.SETTINGS)])
def test_a_preface_and_no_request(behind: bytes) -> None:
    with serving(config=worker_config(), options=SHORT) as proxy:
        client = dial(proxy.port, preface=False)
        client.send(PREFACE + behind)
        answered_meanwhile(proxy)
        client.end()
        client.close()


def test_a_head_that_is_never_finished_is_closed() -> None:
    with serving(config=worker_config(), options=SHORT) as proxy:
        client = dial(proxy.port)
        client.settle()
        client.send(frame(HEADERS, 0, 1, literals(pseudo())))
        answered_meanwhile(proxy)
        client.end()
        client.close()


# ---- windows that stay shut ------------------------------------------------------------------------------------------


class Large:
    """Origins with 1 MiB for everybody."""

    def __init__(self) -> None:
        self.one = H1Origin()
        self.one.reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MIB + bytes(MIB)
        self.two = Origin()
        self.two.reply = (200, [], bytes(MIB))


@pytest.fixture
def large() -> Iterator[Large]:
    made = Large()
    yield made
    made.two.close()
    made.one.close()


@pytest.mark.parametrize("path", ["/h2/x", "/one", "/direct"])
@pytest.mark.parametrize("stream_window", [0, WINDOW_MOST])
def test_a_thousand_streams_whose_windows_stay_shut(large: Large, path: str, stream_window: int) -> None:
    """The streams' own windows, or that of the connection; ends by the stream idle timeout, one by one."""
    config = worker_config(large.one.port, large.two.port)
    if path == "/direct":
        config["tables"][0]["virtual_hosts"][0]["routes"][0]["direct"]["body"] = bytes(30_000)
    with serving(config=config, options={"stream_idle_timeout_ms": 2000}) as proxy:
        before = proxy.segment.worker(0)["mem_bytes"]
        clients: list[Client] = []
        streams = 0
        while streams < (200 if path == "/one" else 1000):  # one thread of the origin each
            client = dial(proxy.port, (h2raw.INITIAL_WINDOW_SIZE, stream_window), credit=False)
            client.settle()
            n = min(client.peer[h2raw.MAX_CONCURRENT_STREAMS], 250)
            block = literals(pseudo(path=path))
            client.send(b"".join(h2raw.headers(client.new_id(), block, True) for _ in range(n)))
            clients.append(client)
            streams += n
        with Good(proxy.port):
            proxy.wait_counter("rq_total", streams)
            most = proxy.segment.worker(0)["mem_bytes"] - before
            for client in clients:
                client.until(lambda c=client: all(a.over for a in c.streams.values()), "the end of each")
                assert all(not a.ended for a in client.streams.values() if path != "/direct")
                most = max(most, proxy.segment.worker(0)["mem_bytes"] - before)
        # 64 KiB a stream and less than a block of 16 KiB at the very most, bookkeeping included
        assert most < streams * 85_000
        stalled = sum(a.reset is not None for client in clients for a in client.streams.values())
        assert stalled > 0 and proxy.counter("h2_stalled") > 0
        proxy.wait_quiet()
        for client in clients:
            client.close()
        wait_for(lambda: proxy.segment.worker(0)["mem_bytes"] < before + 2 * MIB)


def test_a_client_that_reads_nothing_is_cut(large: Large) -> None:
    config = worker_config(large.one.port, large.two.port)
    with serving(config=config, options={"stream_idle_timeout_ms": 800}) as proxy:
        client = dial(proxy.port, (h2raw.INITIAL_WINDOW_SIZE, WINDOW_MOST), rcvbuf=2048, acknowledge=False)
        client.send(h2raw.window_update(0, WINDOW_MOST - 65535))
        block = literals(pseudo(path="/h2/x"))
        client.send(b"".join(h2raw.headers(client.new_id(), block, True) for _ in range(50)))
        with Good(proxy.port):
            proxy.wait_counter("rq_total", 50)
            proxy.wait_quiet()
            wait_for(lambda: proxy.segment.worker(0)["mem_bytes"] < 2 * MIB)
        client.close()


def test_an_upload_that_stops_ends() -> None:
    origin = Origin()
    with serving(config=worker_config(two=origin.port), options={"stream_idle_timeout_ms": 400}) as proxy:
        client = dial(proxy.port)
        sid = client.request("POST", "/h2/x", body=b"half", end=False)
        answer = client.over(sid)
        assert answer.status == 408 or answer.reset is not None
        origin.wait(lambda: origin.requests and origin.requests[0].reset_by is not None, "RST_STREAM")
        client.close()
    origin.close()


# ---- upstreams that attack -------------------------------------------------------------------------------------------


HEAD = literals([(":status", "200")])
FLOODS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "SETTINGS": ("h2_settings", lambda sid: frame(h2raw.SETTINGS) * 5000),
    "PING": ("h2_pings", lambda sid: h2raw.ping() * 5000),
    "DATA, empty": ("h2_empty_frames", lambda sid: h2raw.headers(sid, HEAD) + frame(DATA, 0, sid) * 10_000),
    "CONTINUATION": (
        "h2_continuations",
        lambda sid: frame(HEADERS, 0, sid, HEAD) + frame(CONTINUATION, 0, sid, literal("x-a", "b")) * 10_000,
    ),
    "WINDOW_UPDATE": ("h2_updates", lambda sid: h2raw.window_update(0, 1) * 50_000),
    "PRIORITY": ("h2_empty_frames", lambda sid: frame(2, 0, sid, struct.pack(">IB", 0, 1)) * 10_000),
    "unknown frames": ("h2_empty_frames", lambda sid: frame(0xFA, 0, 0, b"?") * 10_000),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_by_an_upstream_ends_its_connection_only(name: str) -> None:
    counter, flood = FLOODS[name]

    def script(request: Request) -> None:
        if request[":path"] == "/h2/attack":
            request.raw(flood(request.id))
        else:
            request.answer(200, [], b"ok")

    origin = Origin(script, tolerant=True)
    with serving(config=worker_config(two=origin.port)) as proxy:
        client = dial(proxy.port)
        with Good(proxy.port):
            answer = client.over(client.request("POST", "/h2/attack"))
            assert answer.status in (502, 503) or (answer.status == 200 and answer.reset is not None)
            proxy.wait_counter(counter, 1)
        assert client.get("/h2/x").body == b"ok"
        origin.wait(lambda: origin.links[0].goaways == [ENHANCE_YOUR_CALM], "GOAWAY")
        assert proxy.segment.worker(0)["mem_bytes"] < 2 * MIB
        client.close()
    origin.close()


@pytest.mark.parametrize(
    "provoke",
    [
        lambda r: r.raw(h2raw.window_update(r.id, 0)),
        lambda r: r.raw_head([(":status", "200"), ("connection", "close")]),
        lambda r: r.raw(h2raw.data(r.id, b"no head")),
    ],
    ids=["window update of 0", "malformed head", "DATA first"],
)
def test_an_upstream_that_makes_us_reset_again_and_again(provoke: Callable[[Request], None]) -> None:
    """MadeYouReset turned round: each request fails, which costs the origin as much as us, and nobody else."""
    origin = Origin(inline=provoke, tolerant=True)
    with serving(config=worker_config(two=origin.port)) as proxy, Good(proxy.port):
        for _ in range(8):
            client = dial(proxy.port)
            client.settle()
            n = min(100, client.peer[h2raw.MAX_CONCURRENT_STREAMS])
            sids = [client.request(path="/h2/x") for _ in range(n)]
            for sid in sids:
                assert client.answer(sid).status in (502, 503)
            client.close()
            assert proxy.segment.worker(0)["mem_bytes"] < 2 * MIB
        assert proxy.counter("h2_rst_out") >= 8 * n
        proxy.wait_quiet()
        assert proxy.segment.worker(0)["mem_bytes"] < 2 * MIB
    origin.close()


def test_interim_answers_of_an_upstream_without_end_are_cut() -> None:
    def script(request: Request) -> None:
        for _ in range(2000):
            request.interim(103, [("link", "</" + "x" * 2000 + ">")])
        request.answer(200)

    origin = Origin(script)
    with serving(config=worker_config(two=origin.port)) as proxy:
        client = dial(proxy.port)
        answer = client.get("/h2/x")
        assert answer.status == 502 and 8 <= len(answer.interim) <= 100
        assert proxy.segment.worker(0)["mem_bytes"] < 2 * MIB
        client.close()
    origin.close()


def test_an_upstream_that_sends_beyond_the_window_is_cut() -> None:
    sent = threading.Event()

    def script(request: Request) -> None:
        request.head(200)
        for _ in range(32):
            request.raw(h2raw.data(request.id, bytes(16384)) * 64)  # 32 MiB
        sent.set()

    origin = Origin(script, tolerant=True)
    with serving(config=worker_config(two=origin.port)) as proxy:
        client = dial(proxy.port, (h2raw.INITIAL_WINDOW_SIZE, 1000), credit=False)
        sid = client.request(path="/h2/x")
        with Good(proxy.port):
            assert client.over(sid).reset is not None
            proxy.wait_counter("h2_flow", 1)
            assert proxy.segment.worker(0)["mem_bytes"] < 2 * MIB
        client.close()
    origin.close()


def test_a_header_list_of_an_upstream_that_is_too_large_is_502() -> None:
    bomb = HEAD + literal("x-bomb", "b" * 4000, 0x40) + h2raw.indexed(62) * 10_000
    origin = Origin(inline=lambda r: r.raw(h2raw.headers(r.id, bomb, True)), tolerant=True)
    with serving(config=worker_config(two=origin.port)) as proxy:
        client = dial(proxy.port)
        assert client.get("/h2/x").status == 502
        assert proxy.get("/h2/x")[0] == 502
        assert proxy.segment.worker(0)["mem_bytes"] < MIB
        client.close()
    origin.close()
