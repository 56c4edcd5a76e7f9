"""Clients that attack over HTTP/2, against a live edge with one worker.

Each ends with the code and the counter that are its own, memory stays where it was, and good clients are
answered all the while. Floods are sent in one go, several times as long as their limits, which count by the
second.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import free_port, h2raw, wait_for
from helpers.app import App
from helpers.certs import Authority
from helpers.h2origin import Origin, Request
from helpers.h2raw import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    SETTINGS,
    WINDOW_MOST,
    Client,
    dial,
    frame,
    literal,
    literals,
    pseudo,
)  # fmt: skip
from helpers.mesh import EdgeProxy
from integration.h2edges import Good, pss, started_edge

LITTLE = 2 << 20  # what an attack may cost while it lasts, beside what is kept for reuse
HOLD = "/h2/hold"
HEAD = literals(pseudo("GET", HOLD))
POST = literals(pseudo("POST", HOLD))


class Site:
    """An edge, its origins, and what they have counted."""

    def __init__(self, directory: Path) -> None:
        Authority("edge").leaf(dns=["edge"]).write(directory, "edge")
        self.held: list[Request] = []
        self.app = App("one")
        self.origin = Origin(inline=self.serve, tolerant=True)
        self.port = free_port()
        self.edge: EdgeProxy = started_edge(
            directory, plain=self.port, tls=free_port(), one=self.app.port, two=self.origin.port
        )
        (self.pid,) = self.edge.worker_pids()

    def serve(self, request: Request) -> None:
        """An origin that holds what is asked to be held, and has 1 MiB for who wants it."""
        if request[":path"] == "/h2/big":
            threading.Thread(target=self.big, args=(request,), daemon=True).start()
        elif request[":path"] != HOLD:
            request.answer(200, [("content-type", "text/plain")], b"ok")

    def big(self, request: Request) -> None:
        with contextlib.suppress(OSError):
            request.answer(200, [], bytes(1 << 20))

    def stat(self, name: str) -> float:
        return self.edge.stat(name)

    def memory(self) -> tuple[float, int]:
        """What the worker says it holds, and what the kernel says it has."""
        return self.stat("worker_memory_bytes"), pss(self.pid)

    def close(self) -> None:
        self.edge.kill()
        print(self.edge.process.report())
        self.app.close()
        self.origin.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("attacks"))
    with Good(made.port), Good(made.port, "/h2/x"), Good(made.port, "/one"):
        pass  # pools have what they keep
    yield made
    made.close()


@pytest.fixture
def unharmed(site: Site) -> Iterator[None]:
    """Whatever the test does: good clients are answered, nothing stays, the worker is the same."""
    held, resident = site.memory()
    with Good(site.port), Good(site.port, "/h2/good"):
        yield
        now = site.memory()
    site.edge.idle()
    wait_for(lambda: site.stat("worker_memory_bytes") < held + LITTLE, what="memory given back")
    assert now[1] < resident + 4 * LITTLE
    assert site.edge.worker_pids() == {site.pid}


pytestmark = pytest.mark.usefixtures("unharmed")


def condemned(site: Site, client: Client, flood: bytes, counter: str, code: int = ENHANCE_YOUR_CALM) -> None:
    """The flood is sent, ends this connection with this code, and is counted once."""
    before = site.stat(counter)
    client.pour(flood)
    assert client.condemned() == code
    wait_for(lambda: site.stat(counter) > before, what=counter)
    assert site.stat(counter) == before + 1
    client.close()


def streams(n: int) -> range:
    return range(1, 2 * n, 2)


# ---- floods, in one table --------------------------------------------------------------------------------


def made_reset(*behind: Callable[[int], bytes], head: bytes = POST, end: bool = False) -> bytes:
    """CVE-2025-8671: frames that make the server reset the stream that they are on."""
    return b"".join(h2raw.headers(sid, head, end) + b"".join(f(sid) for f in behind) for sid in streams(2000))


def priority(sid: int, on: int) -> bytes:
    return frame(PRIORITY, 0, sid, struct.pack(">IB", on, 7))


WITH_LENGTH = literals([*pseudo("POST", HOLD), ("content-length", "1")])
FLOODS: dict[str, tuple[str, Callable[[], bytes]]] = {
    # CVE-2023-44487
    "rapid reset": (
        "h2_rapid_reset",
        lambda: b"".join(h2raw.headers(sid, HEAD, True) + h2raw.rst(sid) for sid in streams(5000)),
    ),
    "rapid reset in bursts": (
        "h2_rapid_reset",
        lambda: b"".join(
            b"".join(h2raw.headers(sid, POST) for sid in range(at, at + 160, 2))
            + b"".join(h2raw.rst(sid, h2raw.NO_ERROR) for sid in range(at, at + 160, 2))
            for at in range(1, 8000, 160)
        ),
    ),
    "made reset: window update of 0": (
        "h2_made_reset",
        lambda: made_reset(lambda s: h2raw.window_update(s, 0)),
    ),
    "made reset: window too large": (
        "h2_made_reset",
        lambda: made_reset(lambda s: h2raw.window_update(s, WINDOW_MOST)),
    ),
    "made reset: priority of itself": ("h2_made_reset", lambda: made_reset(lambda s: priority(s, s))),
    "made reset: priority cut short": (
        "h2_made_reset",
        lambda: made_reset(lambda s: frame(PRIORITY, 0, s, b"\0\0\0")),
    ),
    "made reset: more DATA than its length": (
        "h2_made_reset",
        lambda: made_reset(lambda s: h2raw.data(s, b"xx"), head=WITH_LENGTH),
    ),
    "made reset: DATA behind the end": (
        "h2_made_reset",
        lambda: made_reset(lambda s: h2raw.data(s, b"x"), end=True),
    ),
    "made reset: trailers that end nothing": (
        "h2_made_reset",
        lambda: made_reset(lambda s: h2raw.headers(s, literal("x-a", "b"))),
    ),
    "made reset: malformed heads": (
        "h2_made_reset",
        lambda: made_reset(head=literals([*pseudo(), ("X-Upper", "case")]), end=True),
    ),
    # CVE-2024-27316
    "CONTINUATION without end": (
        "h2_continuations",
        lambda: frame(HEADERS, 0, 1, HEAD) + frame(CONTINUATION, 0, 1, literal("x-a", "b")) * 10_000,
    ),
    "CONTINUATION, large": (
        "h2_continuations",
        lambda: frame(HEADERS, 0, 1, HEAD) + frame(CONTINUATION, 0, 1, literal("x-a", "b" * 16000)) * 100,
    ),
    "CONTINUATION, empty": (
        "h2_continuations",
        lambda: frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, b"") * 10_000,
    ),
    # CVE-2019-9515, -9512, -9518, -9513
    "SETTINGS": ("h2_settings", lambda: h2raw.settings((h2raw.MAX_FRAME_SIZE, 16384)) * 5000),
    "SETTINGS, empty": ("h2_settings", lambda: frame(SETTINGS) * 5000),
    "SETTINGS of many entries": ("h2_settings", lambda: h2raw.settings(*[(0x99, i) for i in range(2000)])),
    "PING": ("h2_pings", lambda: h2raw.ping() * 5000),
    "DATA, empty": ("h2_empty_frames", lambda: h2raw.headers(1, POST) + frame(DATA, 0, 1) * 10_000),
    "DATA, padding only": (
        "h2_empty_frames",
        lambda: h2raw.headers(1, POST) + frame(DATA, PADDED, 1, b"\x03\0\0\0") * 10_000,
    ),
    "PRIORITY": ("h2_empty_frames", lambda: b"".join(priority(sid, 0) for sid in streams(10_000))),
    "frames of no known type": ("h2_empty_frames", lambda: frame(0xFA, 0xFF, 0, b"what?") * 10_000),
    "WINDOW_UPDATE": ("h2_updates", lambda: h2raw.window_update(0, 1) * 50_000),
    "WINDOW_UPDATE of a stream": (
        "h2_updates",
        lambda: h2raw.headers(1, HEAD, True) + h2raw.window_update(1, 1) * 50_000,
    ),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_its_connection(site: Site, name: str) -> None:
    counter, flood = FLOODS[name]
    seen = len(site.origin.requests)
    client = dial(site.port)
    client.settle()
    condemned(site, client, flood(), counter)
    # what the origin had to bear is bounded, too (good clients' requests are not counted)
    assert sum(r[":path"] == HOLD for r in site.origin.requests[seen:]) <= 1024


@pytest.mark.parametrize("name", ["rapid reset", "SETTINGS", "PING", "WINDOW_UPDATE"])
def test_floods_by_many_at_once_that_do_not_read(site: Site, name: str) -> None:
    counter, flood = FLOODS[name]
    before = site.stat(counter)
    octets = flood()
    clients = [dial(site.port, rcvbuf=2048, acknowledge=False) for _ in range(10)]
    threads = [threading.Thread(target=client.pour, args=(octets,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    wait_for(lambda: site.stat(counter) == before + len(clients), what=counter)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()  # the proxy has closed
    for client in clients:
        assert client.condemned() == ENHANCE_YOUR_CALM
        client.close()


# ---- header lists ----------------------------------------------------------------------------------------


def test_a_header_list_that_is_too_large_is_431_and_the_connection_goes_on(site: Site) -> None:
    before = site.stat("h2_header_list")
    client = dial(site.port)
    many = [*pseudo(path="/h2/x"), *((f"x-{i}", "v") for i in range(101))]
    long = [*pseudo(path="/h2/x"), *((f"x-{i}", "v" * 4000) for i in range(15))]
    assert client.answer(client.send_head(many)).status == 431
    sid = client.new_id()
    # about 60 KiB as a list, less as a block: too large only when it is decoded
    client.send(h2raw.headers(sid, client.block([*long, ("x-more", "0" * 6000)]), True, pieces=5))
    assert client.answer(sid).status == 431
    assert client.get("/h2/x").status == 200
    assert site.stat("h2_header_list") == before + 2
    client.close()


def bomb(entries: int) -> bytes:
    """One entry that fills the dynamic table, referred to again and again: a byte each."""
    return HEAD + literal("x-bomb", "b" * 4000, 0x40) + h2raw.indexed(62) * entries


@pytest.mark.parametrize("entries", [16, 1000, 16_000])
def test_a_bomb_is_refused_without_unpacking(site: Site, entries: int) -> None:
    before = site.stat("h2_header_list")
    seen = len(site.origin.requests)
    client = dial(site.port)
    sid = client.new_id()
    client.send(h2raw.headers(sid, bomb(entries), True, pieces=2))
    assert client.answer(sid).status == 431
    again = HEAD + h2raw.indexed(62) * entries  # the table holds it still
    for _ in range(20):
        sid = client.new_id()
        client.send(h2raw.headers(sid, again, True))
        assert client.answer(sid).status == 431
    assert client.get("/h2/x").status == 200
    assert site.stat("h2_header_list") == before + 21
    assert not any(r[":path"] == HOLD for r in site.origin.requests[seen:])
    client.close()


@pytest.mark.parametrize(
    "block",
    [
        h2raw.indexed(0),
        h2raw.indexed(62),
        h2raw.integer(1 << 62, 7, 0x80),
        b"\x80" + b"\xff" * 20,
        h2raw.integer(5000, 5, 0x20),
        HEAD + b"\x20",
        b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x00\x05abc",
        b"\x00\x84\xff\xff\xff\xff\x00",
    ],
    ids=["index 0", "empty table", "huge index", "endless integer", "table too large", "late table size",
         "huge string", "string cut short", "end of string coded"],
)  # fmt: skip
def test_a_block_that_cannot_be_decoded_ends_the_connection(site: Site, block: bytes) -> None:
    client = dial(site.port)
    client.settle()
    condemned(site, client, h2raw.headers(1, block, True), "h2_protocol", h2raw.COMPRESSION_ERROR)


# ---- limits of streams and windows -----------------------------------------------------------------------


def test_streams_above_the_limit_are_refused_and_those_below_are_answered(site: Site) -> None:
    client = dial(site.port)
    client.settle()
    limit = client.peer[h2raw.MAX_CONCURRENT_STREAMS]
    assert 100 <= limit <= 1024  # RFC 9113 6.5.2 advises against fewer
    refused, seen = site.stat("h2_refused"), len(site.origin.requests)
    sids = [client.new_id() for _ in range(limit + 50)]
    client.send(b"".join(h2raw.headers(sid, HEAD, True) for sid in sids))
    for sid in sids[limit:]:
        assert client.reset(sid) == REFUSED_STREAM
    assert site.stat("h2_refused") == refused + 50
    held = lambda: [r for r in site.origin.requests[seen:] if r[":path"] == HOLD]  # noqa: E731
    site.origin.wait(lambda: len(held()) == limit, "all that were taken")
    for request in held():
        request.answer(200, [], b"at last")
    for sid in sids[:limit]:
        assert client.answer(sid).body == b"at last"
    assert client.get("/direct").status == 200
    client.close()


def test_data_beyond_a_streams_window_resets_it(site: Site) -> None:
    client = dial(site.port)
    client.settle()
    before = site.stat("h2_flow")
    sid = client.new_id()
    client.send(h2raw.headers(sid, literals(pseudo("POST", "/h2/hold"))))
    site.origin.credit = False
    try:
        window = client.peer[h2raw.INITIAL_WINDOW_SIZE]
        # the origin takes one window and no more; then ours is full
        client.send(h2raw.data(sid, bytes(16384)) * ((window + 65535) // 16384 + 2))
        assert client.reset(sid) == FLOW_CONTROL_ERROR
    finally:
        site.origin.credit = True
    assert site.stat("h2_flow") == before + 1
    assert client.get("/direct").status == 200
    client.close()


def test_data_beyond_the_connections_window_ends_it(site: Site) -> None:
    client = dial(site.port)
    client.settle()
    client.ping()
    # the origin's connection takes 65,535 bytes; the rest is ours to hold, up to both windows
    frames = client.peer[h2raw.INITIAL_WINDOW_SIZE] // 16384
    sids = [client.new_id() for _ in range((client.window + 65535) // (frames * 16384) + 4)]
    site.origin.credit = False
    try:
        flood = b"".join(h2raw.headers(s, POST) + h2raw.data(s, bytes(16384)) * frames for s in sids)
        condemned(site, client, flood, "h2_flow", FLOW_CONTROL_ERROR)
    finally:
        site.origin.credit = True


def test_window_that_overflows_ends_the_connection(site: Site) -> None:
    client = dial(site.port)
    client.settle()
    condemned(site, client, h2raw.window_update(0, WINDOW_MOST) * 2, "h2_flow", FLOW_CONTROL_ERROR)


def test_an_initial_window_that_overflows_a_streams_ends_the_connection(site: Site) -> None:
    client = dial(site.port)
    client.settle()
    flood = h2raw.headers(1, HEAD, True) + h2raw.window_update(1, WINDOW_MOST - 65535)
    flood += h2raw.settings((h2raw.INITIAL_WINDOW_SIZE, 65536))
    condemned(site, client, flood, "h2_flow", FLOW_CONTROL_ERROR)


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (frame(DATA, 0, 1, length=0xFFFFFF), FRAME_SIZE_ERROR),
        (frame(HEADERS, END_HEADERS, 1, length=0xFFFFFF), FRAME_SIZE_ERROR),
        (frame(0xFA, 0, 0, length=0xFFFFFF), FRAME_SIZE_ERROR),
        (frame(DATA, 0, 1, length=16385), FRAME_SIZE_ERROR),
        (frame(PING, 0, 0, b"1234567"), FRAME_SIZE_ERROR),
        (frame(PING, 0, 1, b"12345678"), PROTOCOL_ERROR),
        (frame(h2raw.PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + HEAD), PROTOCOL_ERROR),
        (h2raw.headers(2, HEAD, True), PROTOCOL_ERROR),
        (h2raw.headers(0, HEAD, True), PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, HEAD) + h2raw.ping(), PROTOCOL_ERROR),
        (frame(CONTINUATION, END_HEADERS, 1, HEAD), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + HEAD), PROTOCOL_ERROR),
        (h2raw.data(1, b"x"), PROTOCOL_ERROR),
        (h2raw.rst(1), PROTOCOL_ERROR),
        (h2raw.window_update(1, 1), PROTOCOL_ERROR),
        (h2raw.window_update(0, 0), PROTOCOL_ERROR),
        (h2raw.settings((h2raw.MAX_FRAME_SIZE, 16383)), PROTOCOL_ERROR),
        (h2raw.settings((h2raw.ENABLE_PUSH, 2)), PROTOCOL_ERROR),
        (frame(SETTINGS, h2raw.ACK, 0, b"123456"), FRAME_SIZE_ERROR),
    ],
)
def test_a_frame_that_may_not_be_ends_the_connection_at_once(site: Site, octets: bytes, code: int) -> None:
    client = dial(site.port)
    client.settle()
    condemned(site, client, octets, "h2_protocol", code)  # no more bytes are waited for


@pytest.mark.parametrize(
    "first", [h2raw.ping(), frame(SETTINGS, h2raw.ACK), h2raw.headers(1, HEAD, True), b"GET / HTTP/1.1"]
)
def test_the_first_frame_has_to_be_settings(site: Site, first: bytes) -> None:
    client = dial(site.port, preface=False)
    condemned(site, client, h2raw.PREFACE + first, "h2_protocol", client_code(first))


def client_code(first: bytes) -> int:
    return FRAME_SIZE_ERROR if first.startswith(b"GET") else PROTOCOL_ERROR


# ---- clients that do not read ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/h2/big", "/bytes/1048576", "/direct"])
def test_clients_that_never_read_cost_a_bounded_amount(site: Site, path: str) -> None:
    before = site.stat("worker_memory_bytes")
    done = site.stat("rq_total")
    n, clients = 100, []
    block = literals(pseudo(path=path))
    for _ in range(2 if path.startswith("/bytes") else 10):
        client = dial(site.port, (h2raw.INITIAL_WINDOW_SIZE, WINDOW_MOST), rcvbuf=2048, acknowledge=False)
        client.send(h2raw.window_update(0, WINDOW_MOST - 65535))
        client.send(b"".join(h2raw.headers(sid, block, True) for sid in streams(n)))
        clients.append(client)
    wait_for(lambda: site.stat("rq_total") >= done + n * len(clients), what="their requests")
    with Good(site.port) as good:
        good.more(20)
    assert site.stat("worker_memory_bytes") < before + (32 << 20)
    for client in clients:
        client.vanish()
    site.edge.idle()
