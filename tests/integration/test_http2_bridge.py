"""Messages through a worker between HTTP/1.1 and HTTP/2, both ways, and between HTTP/2 and HTTP/2: what is fine
arrives as it was meant. What must not is in test_http2_bridge_refused.py.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator

import pytest

from helpers import h2raw
from helpers.h2origin import Origin, Request
from helpers.h2raw import Client, dial, literals, pseudo
from helpers.worker import Peer, WorkerProxy, serving
from integration.h2edges import H1Origin, Message, read_answer, worker_config

SIZES = [0, 1, 16384, 16385, 1 << 20, 10 << 20]
BLOCK = bytes(range(256)) * 4096
ONE, TWO = "/one", "/h2"  # by path: to the origin of HTTP/1.1, of HTTP/2


def content(n: int) -> bytes:
    return (BLOCK * (n // len(BLOCK) + 1))[:n]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Bridge:
    """Both origins do what the path says: /sum, /bytes/N (with a length), /stream/N (without)."""

    def __init__(self) -> None:
        self.one, self.two = H1Origin(), Origin(self.serve)
        self.one.reply = self.reply
        self.reset()

    def reset(self) -> None:
        self.status = 200
        self.fields: list[tuple[str, str]] = []
        self.trailers: list[tuple[str, str]] | None = None
        self.body = b""

    def serve(self, request: Request) -> None:
        request.wait_end()
        body, chunked = self.answer(request[":path"], bytes(request.body))
        fields = list(self.fields) if chunked else [*self.fields, ("content-length", str(len(body)))]
        if self.status in (204, 304) or request[":method"] == "HEAD":
            body = b""
        request.answer(self.status, fields, body, self.trailers)

    def reply(self, m: Message) -> bytes:
        method, target, _ = m.line.split(" ")
        body, chunked = self.answer(target, m.body)
        fields = [f"{name}: {value}" for name, value in self.fields]
        if chunked and self.status != 204:
            fields.append("transfer-encoding: chunked")
            parts = [body[at : at + 70_000] for at in range(0, len(body), 70_000)]
            end = "".join(f"{k}: {v}\r\n" for k, v in self.trailers or ())
            body = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n" + end.encode() + b"\r\n"
        elif self.status != 204:
            fields.append(f"content-length: {len(body)}")
        if self.status in (204, 304) or method == "HEAD":
            body = b""
        head = "\r\n".join([f"HTTP/1.1 {self.status} Why Not", *fields])
        return head.encode("latin-1") + b"\r\n\r\n" + body

    def answer(self, path: str, body: bytes) -> tuple[bytes, bool]:
        """The body, and whether its length is left unsaid."""
        word, _, value = path.partition("?")[0].removeprefix(ONE).removeprefix(TWO).lstrip("/").partition("/")
        if word == "sum":
            return sha(body).encode(), False
        if word in ("bytes", "stream"):
            return content(int(value)), word == "stream"
        return self.body, self.trailers is not None


@pytest.fixture(scope="module")
def made() -> Iterator[tuple[Bridge, WorkerProxy]]:
    bridge = Bridge()
    try:
        with serving(bridge.one, config=worker_config(bridge.one.port, bridge.two.port)) as proxy:
            yield bridge, proxy
    finally:
        bridge.two.close()


@pytest.fixture
def bridge(made: tuple[Bridge, WorkerProxy]) -> Bridge:
    made[0].reset()
    return made[0]


@pytest.fixture
def proxy(made: tuple[Bridge, WorkerProxy]) -> WorkerProxy:
    return made[1]


@pytest.fixture
def client(proxy: WorkerProxy) -> Iterator[Client]:
    one = dial(proxy.port)
    yield one
    one.close()


@pytest.fixture
def peer(proxy: WorkerProxy) -> Iterator[Peer]:
    one = proxy.dial()
    yield one
    one.close()


both_origins = pytest.mark.parametrize("to", [ONE, TWO])


def ask(peer: Peer, head: str, body: bytes = b"") -> Message:
    """An HTTP/1.1 request and its answer."""
    peer.send(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n")
    sender = threading.Thread(target=peer.send, args=(body,), daemon=True)
    sender.start()
    answer = read_answer(peer, head.split(" ")[0])
    sender.join(20)
    return answer


# ---- bodies ----------------------------------------------------------------------------------------------------------


@both_origins
@pytest.mark.parametrize("size", SIZES)
def test_uploads_of_a_client_of_http2(client: Client, to: str, size: int) -> None:
    body = content(size)
    for fields in ([("content-length", str(size))], []):
        answer = client.answer(client.request("POST", f"{to}/sum", fields, body=body))
        assert (answer.status, answer.body.decode()) == (200, sha(body))


@pytest.mark.parametrize("size", SIZES)
def test_uploads_of_a_client_of_http1(peer: Peer, bridge: Bridge, size: int) -> None:
    body = content(size)
    head = f"POST {TWO}/sum HTTP/1.1\nHost: test\n"
    assert ask(peer, head + f"Content-Length: {size}", body).body.decode() == sha(body)
    assert bridge.two.requests[-1]["content-length"] == str(size)
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:1000], body[1000:]) if p) + b"0\r\n\r\n"
    assert ask(peer, head + "Transfer-Encoding: chunked", chunked).body.decode() == sha(body)
    assert not {"content-length", "transfer-encoding"} & set(bridge.two.requests[-1].names())


@both_origins
@pytest.mark.parametrize("size", SIZES)
def test_downloads_to_a_client_of_http2(client: Client, to: str, size: int) -> None:
    answer = client.get(f"{to}/bytes/{size}")
    assert (answer.status, answer["content-length"], sha(answer.body)) == (200, str(size), sha(content(size)))
    answer = client.get(f"{to}/stream/{size}")
    assert (answer.get("content-length"), answer.get("transfer-encoding")) == (None, None)
    assert answer.trailers is None and sha(answer.body) == sha(content(size))


@pytest.mark.parametrize("size", SIZES)
def test_downloads_to_a_client_of_http1(peer: Peer, size: int) -> None:
    answer = ask(peer, f"GET {TWO}/bytes/{size} HTTP/1.1\nHost: test")
    assert (answer.status, answer["content-length"], sha(answer.body)) == (200, str(size), sha(content(size)))
    answer = ask(peer, f"GET {TWO}/stream/{size} HTTP/1.1\nHost: test")
    assert not answer.all("content-length") or size == 0
    assert sha(answer.body) == sha(content(size))


@both_origins
def test_many_streams_at_once_keep_their_bodies_apart(client: Client, to: str) -> None:
    sizes = [i * 997 for i in range(120)]
    sids = [client.request("GET", f"{to}/bytes/{size}") for size in sizes]
    for sid, size in zip(sids, sizes, strict=True):
        assert bytes(client.answer(sid).body) == content(size)


def test_a_client_that_asks_for_little_at_a_time_gets_all_of_it(proxy: WorkerProxy) -> None:
    client = dial(proxy.port, (h2raw.INITIAL_WINDOW_SIZE, 1))
    for to in (ONE, TWO):
        assert client.get(f"{to}/bytes/3000").body == content(3000)
    client.close()


# ---- what a request says -----------------------------------------------------------------------------------------------


def test_a_request_of_http2_in_http1(client: Client, bridge: Bridge) -> None:
    fields = [
        ("x-a", "1"),
        ("x-b", ""),
        ("x-a", "2"),
        ("x-obs", "caf\xe9"),
        ("accept", "*/*"),
        ("x-tab", "a\tb"),
    ]
    client.get(f"{ONE}/bytes/1?q=1&r=%2f//..", fields, authority="Test.example:8080")
    seen = bridge.one.seen[-1]
    assert seen.line == f"GET {ONE}/bytes/1?q=1&r=%2f//.. HTTP/1.1"
    assert seen["host"] == "Test.example:8080"
    assert [f for f in seen.fields if f in fields] == fields
    assert not seen.all("transfer-encoding") and not seen.all("content-length")


def test_a_request_of_http1_in_http2(peer: Peer, bridge: Bridge) -> None:
    ask(
        peer,
        f"GET {TWO}/bytes/1?q=1 HTTP/1.1\nHost: Test.example:8080\nX-Upper: Case\nX-A: 1\nx-b:\nX-A: 2\n"
        "Connection: keep-alive, x-hop\nKeep-Alive: timeout=5\nProxy-Connection: x\nX-Hop: 1\nUpgrade: h2c\nTE: gzip",
    )
    seen = bridge.two.requests[-1]
    assert (seen[":method"], seen[":path"]) == ("GET", f"{TWO}/bytes/1?q=1")
    assert (seen[":authority"], seen[":scheme"]) == ("Test.example:8080", "http")
    assert [f for f in seen.fields if f[0] in ("x-upper", "x-a", "x-b")] == [
        ("x-upper", "Case"), ("x-a", "1"), ("x-b", ""), ("x-a", "2"),
    ]  # fmt: skip
    forbidden = {
        "host",
        "connection",
        "keep-alive",
        "proxy-connection",
        "x-hop",
        "upgrade",
        "te",
        "transfer-encoding",
    }
    assert not forbidden & set(seen.names())


@both_origins
def test_cookies_in_crumbs_are_one(client: Client, bridge: Bridge, to: str) -> None:
    client.get(f"{to}/bytes/0", [("cookie", "a=1"), ("x-a", "b"), ("cookie", "b=2"), ("cookie", "c=3; d=4")])
    if to == ONE:
        assert bridge.one.seen[-1]["cookie"] == "a=1; b=2; c=3; d=4"
    else:
        crumbs = [value for name, value in bridge.two.requests[-1].fields if name == "cookie"]
        assert "; ".join(crumbs) == "a=1; b=2; c=3; d=4"


def test_a_host_that_agrees_with_the_authority_is_said_once(client: Client, bridge: Bridge) -> None:
    for fields in (
        [*pseudo(path=ONE), ("host", "test")],
        [(":method", "GET"), (":scheme", "http"), (":path", ONE), ("host", "test")],
    ):
        assert client.answer(client.send_head(fields)).status == 200
        assert bridge.one.seen[-1]["host"] == "test"


@both_origins
def test_a_length_said_twice_is_said_once(client: Client, bridge: Bridge, to: str) -> None:
    sid = client.send_head([*pseudo("POST", to), ("content-length", "2"), ("content-length", "2")], end=False)
    client.send(h2raw.data(sid, b"ab", True))
    assert client.answer(sid).status == 200
    if to == ONE:
        assert (bridge.one.seen[-1]["content-length"], bridge.one.seen[-1].body) == ("2", b"ab")
    else:
        assert (bridge.two.requests[-1]["content-length"], bridge.two.requests[-1].body) == ("2", b"ab")


def test_a_body_without_a_length_is_chunked_and_none_is_none(client: Client, bridge: Bridge) -> None:
    client.answer(client.request("POST", ONE, body=b"abc"))
    assert (bridge.one.seen[-1]["transfer-encoding"], bridge.one.seen[-1].body) == ("chunked", b"abc")
    client.answer(client.request("POST", ONE))
    seen = bridge.one.seen[-1]
    assert not seen.all("transfer-encoding") and seen.body == b""


@both_origins
def test_te_trailers(client: Client, bridge: Bridge, to: str) -> None:
    assert client.get(f"{to}/bytes/1", [("te", "trailers")]).status == 200
    if to == TWO:
        assert bridge.two.requests[-1]["te"] == "trailers"
    elif te := bridge.one.seen[-1].all("te"):  # of one hop: it has to say so
        assert te == ["trailers"] and "te" in bridge.one.seen[-1]["connection"].lower()


def test_te_trailers_of_http1(peer: Peer, bridge: Bridge) -> None:
    ask(peer, f"GET {TWO} HTTP/1.1\nHost: test\nTE: gzip, trailers\nConnection: TE")
    assert bridge.two.requests[-1]["te"] == "trailers"


@both_origins
def test_as_many_fields_as_there_may_be(client: Client, bridge: Bridge, to: str) -> None:
    fields = [(f"x-field-{i}", f"value {i} " + "v" * 400 + ".") for i in range(99)]  # and Host
    bridge.fields = [(f"x-back-{i}", f"value {i}") for i in range(90)]
    answer = client.get(f"{to}/bytes/1", fields)
    assert answer.status == 200
    seen = bridge.one.seen[-1].fields if to == ONE else bridge.two.requests[-1].fields
    assert [f for f in seen if f[0].startswith("x-field-")] == fields
    assert [f for f in answer.fields if f[0].startswith("x-back-")] == bridge.fields


def test_what_came_never_indexed_goes_on_so(client: Client, bridge: Bridge) -> None:
    sid = client.new_id()
    block = literals(pseudo(path=TWO)) + h2raw.literal("x-secret", "s", 0x10) + h2raw.literal("x-open", "o")
    client.send(h2raw.headers(sid, block, True))
    client.answer(sid)
    never = bridge.two.requests[-1].never
    assert "x-secret" in never and "x-open" not in never


@pytest.mark.parametrize("method", ["OPTIONS", "DELETE", "PATCH", "PURGE", "M-SEARCH"])
@both_origins
def test_methods(client: Client, bridge: Bridge, to: str, method: str) -> None:
    assert client.answer(client.request(method, to)).status == 200
    seen = bridge.one.seen[-1].line.split(" ")[0] if to == ONE else bridge.two.requests[-1][":method"]
    assert seen == method


def test_targets_of_http1(peer: Peer, bridge: Bridge) -> None:
    ask(peer, f"GET http://other.example{TWO}/x?y HTTP/1.1\nHost: test")
    seen = bridge.two.requests[-1]
    assert (seen[":authority"], seen[":path"]) == ("other.example", f"{TWO}/x?y")


# ---- trailers ----------------------------------------------------------------------------------------------------------

TRAILERS = [("x-sum", "1"), ("grpc-status", "0"), ("x-sum", "2")]


@both_origins
def test_trailers_of_a_client_of_http2(client: Client, bridge: Bridge, to: str) -> None:
    for body in (b"abc", b""):
        sid = client.request("POST", to, [("trailer", "x-sum")], body=body, trailers=TRAILERS)
        assert client.answer(sid).status == 200
        seen = bridge.one.seen[-1] if to == ONE else bridge.two.requests[-1]
        assert (bytes(seen.body), seen.trailers) == (body, TRAILERS)


def test_trailers_of_a_client_of_http1(peer: Peer, bridge: Bridge) -> None:
    lines = "".join(f"{k}: {v}\r\n" for k, v in TRAILERS)
    chunks = f"3\r\nabc\r\n0\r\n{lines}\r\n".encode()
    ask(peer, f"POST {TWO} HTTP/1.1\nHost: test\nTransfer-Encoding: chunked", chunks)
    seen = bridge.two.requests[-1]
    assert (seen.body, seen.trailers) == (b"abc", TRAILERS)


@both_origins
@pytest.mark.parametrize("body", [b"", b"abc", content(100_000)])
def test_trailers_to_a_client_of_http2(client: Client, bridge: Bridge, to: str, body: bytes) -> None:
    bridge.body, bridge.trailers = body, TRAILERS
    answer = client.get(to, [("te", "trailers")])
    assert (answer.status, answer.trailers, bytes(answer.body)) == (200, TRAILERS, body)


@pytest.mark.parametrize("body", [b"", b"abc", content(100_000)])
def test_trailers_to_a_client_of_http1(peer: Peer, bridge: Bridge, body: bytes) -> None:
    bridge.body, bridge.trailers = body, TRAILERS
    answer = ask(peer, f"GET {TWO} HTTP/1.1\nHost: test\nTE: trailers\nConnection: TE")
    assert (answer.status, answer.trailers, answer.body) == (200, TRAILERS, body)


def test_an_answer_that_is_trailers_only(client: Client, bridge: Bridge) -> None:
    """gRPC's: one HEADERS that ends the stream."""
    bridge.fields = [("content-type", "application/grpc"), ("grpc-status", "5")]
    answer = client.answer(client.request("POST", f"{TWO}/stream/0", [("te", "trailers")]))
    assert (answer.status, answer["grpc-status"], answer.trailers, answer.ended) == (200, "5", None, True)
    assert [f.kind for f in client.frames if f.stream] == [h2raw.HEADERS]


# ---- 1xx, HEAD, statuses without a body ----------------------------------------------------------------------------------


def hints(script: Callable[[Request], None]) -> Callable[[Request], None]:
    def with_hints(request: Request) -> None:
        for i in range(3):
            request.interim(103, [("link", f"</{i}>")])
        script(request)

    return with_hints


@pytest.mark.parametrize("version", [1, 2])
@both_origins
def test_early_hints_arrive_in_order(proxy: WorkerProxy, bridge: Bridge, to: str, version: int) -> None:
    bridge.body = b"done"
    bridge.two.script = hints(bridge.serve)
    bridge.one.before_body = lambda peer, m: peer.send(
        b"".join(b"HTTP/1.1 103 Early Hints\r\nLink: </%d>\r\n\r\n" % i for i in range(3))
    )
    try:
        if version == 1:
            peer = proxy.dial()
            answer = ask(peer, f"GET {to} HTTP/1.1\nHost: test")
            interim, body = answer.interim, answer.body
            peer.close()
        else:
            client = dial(proxy.port)
            got = client.get(to)
            interim, body = got.interim, bytes(got.body)
            client.close()
    finally:
        bridge.two.script, bridge.one.before_body = bridge.serve, None
    assert [(status, [v for k, v in fields if k.lower() == "link"]) for status, fields in interim] == [
        (103, [f"</{i}>"]) for i in range(3)
    ]
    assert body == b"done"


@both_origins
def test_a_client_of_http2_that_waits_for_100_continue(client: Client, bridge: Bridge, to: str) -> None:
    def answered(request: Request) -> None:
        request.interim(100)
        bridge.serve(request)

    bridge.two.script = answered
    bridge.one.before_body = lambda peer, m: peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        sid = client.request("POST", f"{to}/sum", [("expect", "100-continue")], end=False)
        client.until(lambda: client.streams[sid].interim, "100")
        client.send_data(sid, b"abc")
        answer = client.answer(sid)
    finally:
        bridge.two.script, bridge.one.before_body = bridge.serve, None
    assert answer.interim == [(100, [])] and answer.body.decode() == sha(b"abc")


def test_a_client_of_http1_that_waits_for_100_continue(peer: Peer, bridge: Bridge) -> None:
    def answered(request: Request) -> None:
        request.interim(100)
        bridge.serve(request)

    bridge.two.script = answered
    try:
        peer.send(
            f"POST {TWO}/sum HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n".encode()
        )
        assert peer.head().startswith(b"HTTP/1.1 100 ")
        peer.send(b"abc")
        assert read_answer(peer).body.decode() == sha(b"abc")
    finally:
        bridge.two.script = bridge.serve


@both_origins
def test_head_has_the_length_and_no_body(client: Client, peer: Peer, to: str) -> None:
    answer = client.answer(client.request("HEAD", f"{to}/bytes/12345"))
    assert (answer.status, answer["content-length"], bytes(answer.body)) == (200, "12345", b"")
    head = ask(peer, f"HEAD {to}/bytes/12345 HTTP/1.1\nHost: test")
    assert head["content-length"] == "12345"
    assert ask(peer, f"GET {to}/bytes/5 HTTP/1.1\nHost: test").body == content(5)


@both_origins
@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body(client: Client, peer: Peer, bridge: Bridge, to: str, status: int) -> None:
    bridge.status, bridge.fields = status, [("etag", '"x"')]
    answer = client.get(f"{to}/stream/0" if status == 204 else f"{to}/bytes/77")
    assert (answer.status, answer["etag"], bytes(answer.body)) == (status, '"x"', b"")
    if status == 304 and answer.get("content-length") is not None:
        assert answer["content-length"] == "77"
    first = ask(peer, f"GET {to}/stream/0 HTTP/1.1\nHost: test")
    assert (first.status, first["etag"], first.body) == (status, '"x"', b"")
    bridge.status = 200
    assert ask(peer, f"GET {to}/bytes/5 HTTP/1.1\nHost: test").body == content(5)


# ---- what an answer says -------------------------------------------------------------------------------------------------


@both_origins
def test_an_answer_to_a_client_of_http2(client: Client, bridge: Bridge, to: str) -> None:
    bridge.status = 418
    bridge.fields = [("set-cookie", "a=1"), ("x-a", "caf\xe9"), ("set-cookie", "b=2"), ("x-empty", "")]
    answer = client.get(f"{to}/bytes/3")
    assert (answer.status, bytes(answer.body)) == (418, content(3))
    assert [f for f in answer.fields if f in bridge.fields] == bridge.fields


def test_what_is_of_one_hop_in_http1_does_not_arrive_in_http2(client: Client, bridge: Bridge) -> None:
    bridge.fields = [
        ("Connection", "x-hop, keep-alive"),
        ("Keep-Alive", "timeout=5"),
        ("X-Hop", "1"),
        ("X-Case", "A"),
    ]
    answer = client.get(f"{ONE}/bytes/3")
    names = {name for name, _ in answer.fields}
    assert answer["x-case"] == "A" and not {"connection", "keep-alive", "x-hop", "transfer-encoding"} & names


def test_an_answer_to_a_client_of_http1(peer: Peer, bridge: Bridge) -> None:
    bridge.status = 418
    bridge.fields = [("set-cookie", "a=1"), ("x-a", "caf\xe9"), ("set-cookie", "b=2"), ("x-empty", "")]
    answer = ask(peer, f"GET {TWO}/bytes/3 HTTP/1.1\nHost: test")
    assert answer.line.startswith("HTTP/1.1 418") and answer.body == content(3)
    assert [
        (k.lower(), v) for k, v in answer.fields if k.lower() in ("set-cookie", "x-a", "x-empty")
    ] == bridge.fields
    assert not answer.all("transfer-encoding")


def test_an_answer_that_ends_with_its_connection(client: Client, bridge: Bridge) -> None:
    """HTTP/1.1 without a length or chunks becomes a stream that ends."""

    bridge.one.reply = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end"
    try:
        answer = client.answer(client.request("POST", ONE))
    finally:
        bridge.one.reply = bridge.reply
    assert answer.body == b"to the end" and answer.ended


@pytest.mark.parametrize("version", [1, 2])
def test_an_answer_before_the_request_ends(proxy: WorkerProxy, version: int) -> None:
    """RFC 9113 8.1: the answer is whole, then NO_ERROR stops the upload; it is the client's answer nevertheless."""
    seen: list[Request] = []

    def inline(request: Request) -> None:
        seen.append(request)
        request.answer(413, [("x-early", "1")], b"too much")
        request.reset(h2raw.NO_ERROR)

    origin = Origin(inline=inline, tolerant=True)
    with serving(config=worker_config(two=origin.port)) as own:
        if version == 1:
            peer = own.dial()
            peer.send(
                b"POST /h2 HTTP/1.1\r\nHost: test\r\nContent-Length: 100000000\r\n\r\n" + bytes(100_000)
            )
            answer = read_answer(peer)
            assert (answer.status, answer["x-early"], answer.body) == (413, "1", b"too much")
            peer.close()
        else:
            client = dial(own.port)
            sid = client.request("POST", "/h2", [("content-length", "100000000")], end=False)
            early = client.answer(sid)
            assert (early.status, early["x-early"], bytes(early.body)) == (413, "1", b"too much")
            assert client.get("/direct").status == 200
            client.close()
    assert len(seen) == 1
    origin.close()
