"""`fastmesh edge` over HTTP/2: one port for every protocol, told apart by bytes, and what TERM does to streams."""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import free_port, h2raw
from helpers.app import App
from helpers.certs import Authority
from helpers.h2origin import Origin, Request
from helpers.h2raw import NO_ERROR, PREFACE, WINDOW_MOST, Client, dial, frame, settings
from helpers.mesh import EdgeProxy
from integration.h2edges import started_edge


class Site:
    def __init__(self, directory: Path) -> None:
        self.ca = Authority("edge")
        self.ca.leaf(dns=["edge.example"]).write(directory, "edge")
        self.held: list[Request] = []
        self.app, self.origin = App("one"), Origin(inline=self.serve)
        self.plain, self.tls = free_port(), free_port()
        self.edge: EdgeProxy = started_edge(
            directory, "--drain-time", "20s",
            plain=self.plain, tls=self.tls, one=self.app.port, two=self.origin.port,
        )  # fmt: skip

    def serve(self, request: Request) -> None:
        if request[":path"] == "/h2/held":
            self.held.append(request)
        else:
            request.answer(200, [], b"ok")

    def secure(self, *alpn: str) -> ssl.SSLSocket:
        context = ssl.create_default_context(cadata=self.ca.pem.decode())
        if alpn:
            context.set_alpn_protocols(list(alpn))
        raw = socket.create_connection(("127.0.0.1", self.tls), timeout=15)
        return context.wrap_socket(raw, server_hostname="edge.example")

    def close(self) -> None:
        self.edge.kill()
        print(self.edge.process.report())
        self.app.close()
        self.origin.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("edge"))
    yield made
    made.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def http1(sock: socket.socket, octets: bytes = b"GET /direct HTTP/1.1\r\nHost: x\r\n\r\n") -> None:
    sock.sendall(octets)
    got = b""
    while b"hello" not in got:
        more = sock.recv(65536)
        assert more, got
        got += more
    assert got.startswith(b"HTTP/1.1 200 ")


# ---- one port --------------------------------------------------------------------------------------------------------


def test_one_plaintext_port_speaks_both(shared: Site) -> None:
    client = dial(shared.plain)
    assert client.get("/direct").body == b"hello"
    with socket.create_connection(("127.0.0.1", shared.plain), 15) as sock:
        http1(sock)
        assert client.get("/h2/x").body == b"ok"
        http1(sock)
    client.close()


def test_a_preface_byte_by_byte(shared: Site) -> None:
    """Each byte is seen alone: there is no timer that gives up on the next one, and none that is waited for."""
    client = dial(shared.plain, preface=False)
    head = h2raw.headers(1, h2raw.literals(h2raw.pseudo(path="/direct")), True)
    client.new_id()
    for byte in PREFACE + settings() + head:
        client.send(bytes([byte]))
    assert client.answer(1).body == b"hello"
    client.close()


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 15, 16, 17, 18, 23])
def test_a_preface_in_two_pieces(shared: Site, cut: int) -> None:
    other = dial(shared.plain)
    client = dial(shared.plain, preface=False)
    client.send(PREFACE[:cut])
    assert other.get("/direct").status == 200  # the first piece has been looked at
    client.send(PREFACE[cut:] + settings())
    assert client.get("/direct").body == b"hello"
    for one in (client, other):
        one.close()


@pytest.mark.parametrize(
    "method", [b"P", b"PR", b"PRI", b"PRIX", b"PROPFIND", b"PUT", b"POST", b"PATCH"]
)  # fmt: skip
def test_methods_of_http1_that_begin_like_the_preface(shared: Site, method: bytes) -> None:
    with socket.create_connection(("127.0.0.1", shared.plain), 15) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in method:
            sock.sendall(bytes([byte]))
        http1(sock, b" /direct HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    "octets",
    [
        PREFACE[:-1] + b"X",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI /x HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_nearly_the_preface_reaches_nobody(shared: Site, octets: bytes) -> None:
    before = shared.app.requests
    with socket.create_connection(("127.0.0.1", shared.plain), 15) as sock:
        sock.sendall(octets)
        answer = sock.recv(65536)
        assert not answer.startswith(b"HTTP/1.1 2"), answer
    assert shared.app.requests == before


@pytest.mark.parametrize(
    ("offered", "spoken"),
    [
        (["h2", "http/1.1"], "h2"),
        (["http/1.1", "h2"], "h2"),
        (["h2"], "h2"),
        (["http/1.1"], "http/1.1"),
        ([], None),
        (["other", "http/1.1"], "http/1.1"),
    ],
)
def test_alpn_on_one_tls_port(shared: Site, offered: list[str], spoken: str | None) -> None:
    with shared.secure(*offered) as tls:
        assert tls.selected_alpn_protocol() == spoken
        if spoken == "h2":
            client = Client(tls)
            answer = client.get("/h2/x", scheme="https")
            assert answer.body == b"ok"
            assert dict(shared.origin.requests[-1].fields)["x-forwarded-proto"] == "https"
        else:
            http1(tls)


def test_a_large_body_both_ways_over_tls(shared: Site) -> None:
    with shared.secure("h2") as tls:
        client = Client(tls)
        answer = client.answer(
            client.request("POST", "/bytes/3000000", body=bytes(3_000_000), scheme="https")
        )
        assert len(answer.body) == 3_000_000 and shared.app.seen[-1]["body"] == 3_000_000


# ---- TERM ------------------------------------------------------------------------------------------------------------


def test_term_lets_streams_complete(site: Site) -> None:
    busy, idle, secure = dial(site.plain), dial(site.plain), Client(site.secure("h2"))
    sids = [busy.request("POST", "/h2/held", body=b"x") for _ in range(3)]
    over_tls = secure.request("GET", "/h2/held", scheme="https")
    idle.settle()
    site.origin.wait_requests(4)
    site.edge.process.signal(signal.SIGTERM)
    for client in (busy, idle, secure):
        assert client.goaway() == (WINDOW_MOST, NO_ERROR)
    for client in (busy, secure):
        client.until(lambda c=client: len(c.goaways) == 2)
    assert busy.goaways[1] == (sids[-1], NO_ERROR) and secure.goaways[1] == (over_tls, NO_ERROR)
    idle.end()
    assert idle.goaways[1] == (0, NO_ERROR)
    for request in site.held:
        request.answer(200, [], bytes(50_000))
    for sid in sids:
        assert len(busy.answer(sid).body) == 50_000
    assert len(secure.answer(over_tls).body) == 50_000
    for client in (busy, secure):
        client.end()
        client.close()
    assert site.edge.process.wait(20) == 0
    idle.close()


def test_hup_does_not_touch_streams(site: Site) -> None:
    client = dial(site.plain)
    sid = client.request("POST", "/h2/held")
    site.origin.wait_requests(1)
    site.edge.reload(site.edge.file.read_text().replace("hello", "other"))
    site.held[0].answer(200, [], b"done")
    assert client.answer(sid).body == b"done"
    client.until(lambda: client.get("/direct").body == b"other")
    assert client.goaways == []
    client.close()


def test_an_edge_says_goaway_to_upstreams_when_it_leaves(site: Site) -> None:
    client = dial(site.plain)
    assert client.get("/h2/x").body == b"ok"
    site.edge.process.signal(signal.SIGTERM)
    client.end()
    assert site.edge.process.wait(20) == 0
    assert site.origin.links[0].goaways == [NO_ERROR]
    client.close()


def test_frames_of_unknown_types_are_ignored(shared: Site) -> None:
    client = dial(shared.plain)
    client.send(frame(0xFA, 0xFF, 0, b"greased") + frame(0x0B, 0, 7, b""))
    assert client.get("/direct").body == b"hello"
    client.close()
