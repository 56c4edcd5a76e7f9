"""What one version of HTTP cannot say is refused and never reaches the other side: no request smuggling.

A worker between clients and origins of both versions. The origin of HTTP/1.1 records every byte, the one of HTTP/2
is the `h2` package, which takes nothing that is malformed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers import h2raw
from helpers.h2origin import Origin, Request
from helpers.h2raw import PROTOCOL_ERROR, Client, dial, literals, pseudo
from helpers.net import wait_for
from helpers.worker import WorkerProxy, serving
from integration.h2edges import H1Origin, read_answer, worker_config

Fields = list[tuple[str, str]]
PSEUDO = pseudo()


class Bridge:
    def __init__(self, proxy: WorkerProxy, one: H1Origin, two: Origin) -> None:
        self.proxy, self.one, self.two = proxy, one, two

    def seen(self) -> int:
        return len(self.one.seen) + len(self.two.requests)

    def still_good(self, client: Client, seen: int) -> None:
        """The connection goes on, and the origins have seen these two requests and nothing else."""
        for path in ("/sentinel", "/h2/sentinel"):
            assert client.get(path).body == b"ok"
        assert self.one.seen[-1].line == "GET /sentinel HTTP/1.1"
        assert self.two.requests[-1][":path"] == "/h2/sentinel"
        assert self.seen() == seen + 2


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    one, two = H1Origin(), Origin()
    try:
        with serving(one, config=worker_config(one.port, two.port)) as proxy:
            yield Bridge(proxy, one, two)
    finally:
        two.close()


def changed(**values: str | None) -> Fields:
    """The pseudo fields with some said otherwise, None: not at all."""
    made = dict(pseudo())
    for name, value in values.items():
        if value is None:
            del made[f":{name}"]
        else:
            made[f":{name}"] = value
    return list(made.items())  # type: ignore[arg-type]


def doubled(name: str, value: str) -> Fields:
    return [*PSEUDO, (f":{name}", value)]  # type: ignore[list-item]


def with_field(name: str, value: str = "v") -> Fields:
    return [*PSEUDO, (name, value)]  # type: ignore[list-item]


SMUGGLED = "x\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"
HEADS: dict[str, Fields] = {
    **{f"in a value: {what!r}": with_field("x-a", what) for what in (
        "a\rb", "a\nb", "a\r\nb", "a\0b", "a\x01b", "a\x7fb", "\r", "\n", "\0", "a\r\n", "\na", " a", "a ", "\ta", "a\t",
        "a\r\nx-smuggled: 1", "a\r\ntransfer-encoding: chunked", SMUGGLED,
    )},
    **{f"as a name: {what!r}": with_field(what) for what in (
        "", "a\rb", "a\nb", "a\r\nb", "a\0b", "a:b", ":", "a b", " a", "a ", "a\tb", "Upper", "x-A", "a\x7f", "a\x80",
        "a(b)", "a/b", "a,b", "a\"b", "x: y\r\nsmuggled", SMUGGLED,
    )},
    **{f"as the method: {what!r}": changed(method=what) for what in (
        "", "GE T", "GET ", " GET", "GET\r\n", "GET\0", "G\tT", "GET:", "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\nGET",
    )},
    **{f"as the path: {what!r}": changed(path=what) for what in (
        "", "x", "*", "/a b", "/a\r\nb", "/a\nb", "/a\0b", "/a\tb", "/a\x7fb", " /", "/ ", "/#x", "/a#", "#", "?a=b",
        "http://test/x", "https://other/", "//\r\n", "/ HTTP/1.1\r\nHost: test\r\n\r\nGET /smuggled", "test:80",
    )},
    **{f"as the authority: {what!r}": changed(authority=what) for what in (
        "", "a b", "a\r\nb", "a\0", "test/x", "test?x", "test#x", "user@test", "a:b", "a:1:2", "a:99999", "[::1", "test\\x",
        "test\r\nx-smuggled: 1", "a,b",
    )},
    **{f"as the scheme: {what!r}": changed(scheme=what) for what in (
        "", "ftp", "http ", "http\r\n", "http://other/?", "javascript",
    )},
    **{f"without :{name}": changed(**{name: None}) for name in ("method", "scheme", "path", "authority")},
    **{f"two of :{name}": doubled(name, value) for name, value in (
        ("method", "GET"), ("method", "POST"), ("scheme", "http"), ("path", "/"), ("path", "/x"), ("authority", "test"),
        ("authority", "other"),
    )},
    "an unknown pseudo field": doubled("unknown", "x"),
    "a response's pseudo field": doubled("status", "200"),
    ":protocol without CONNECT": doubled("protocol", "websocket"),
    "a late pseudo field": [*changed(path=None), ("x-a", "b"), (":path", "/")],
    "a pseudo field behind te": [*changed(path=None), ("te", "trailers"), (":path", "/")],
    "a pseudo field behind host": [*changed(path=None), ("host", "test"), (":path", "/")],
    "host is another": with_field("host", "other"),
    "host is longer": with_field("host", "test.example"),
    "two hosts": [*changed(authority=None), ("host", "test"), ("host", "other")],
    "host alone, malformed": [*changed(authority=None), ("host", "a b")],
    "CONNECT with a path": changed(method="CONNECT"),
    "CONNECT without an authority": [(":method", "CONNECT")],
    **{f"{name}: {value}": with_field(name, value) for name, value in (
        ("connection", "close"), ("connection", "keep-alive"), ("connection", "x-a"), ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"), ("transfer-encoding", "chunked"), ("transfer-encoding", "identity"),
        ("transfer-encoding", ""), ("upgrade", "h2c"), ("upgrade", "websocket"), ("te", "gzip"), ("te", "trailers, gzip"),
        ("te", "gzip;q=1, trailers"), ("te", ""),
    )},
    **{f"content-length: {what!r}": with_field("content-length", what) for what in (
        "", "-1", "+0", "0x0", "0 ", "a", "0,0", "0, 0", "1e1", "99999999999999999999", "18446744073709551616", "5",
    )},
    "two lengths": [*with_field("content-length", "0"), ("content-length", "1")],
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_http1_cannot_say_is_refused(bridge: Bridge, name: str) -> None:
    client = dial(bridge.proxy.port)
    before, malformed = bridge.seen(), bridge.proxy.counter("h2_malformed")
    connections = bridge.one.connections
    fields: Fields = HEADS[name]
    answer = client.over(client.send_head(fields))
    assert answer.reset == PROTOCOL_ERROR or answer.status == 400, answer
    # the same with the encoder that everybody uses, Huffman coded
    sid = client.new_id()
    client.send(h2raw.headers(sid, client.block(fields), True, pieces=2))
    assert client.over(sid).reset == PROTOCOL_ERROR or client.streams[sid].status == 400
    assert bridge.proxy.counter("h2_malformed") + bridge.proxy.counter("rq_bad") >= malformed + 2
    assert bridge.seen() == before and bridge.one.connections == connections and not bridge.one.partial
    bridge.still_good(client, before)
    client.close()


def body(fields: Fields, *frames: bytes, path: str) -> bytes:
    """On stream 1."""
    head = [(k, path if k == ":path" else v) for k, v in [*pseudo("POST"), *fields]]
    return h2raw.headers(1, literals(head)) + b"".join(frames)


LENGTH: Fields = [("content-length", "5")]
BODIES: dict[str, tuple[Fields, list[bytes]]] = {
    "too short": (LENGTH, [h2raw.data(1, b"123", True)]),
    "nothing": (LENGTH, [h2raw.data(1, b"", True)]),
    "too short in pieces": (LENGTH, [h2raw.data(1, b"1"), h2raw.data(1, b"2"), h2raw.data(1, b"", True)]),
    "too long": (LENGTH, [h2raw.data(1, b"123456", True)]),
    "padding counts as nothing": (LENGTH, [h2raw.data(1, b"123", True, pad=2)]),
    "too short with trailers": (LENGTH, [h2raw.data(1, b"123"), h2raw.headers(1, literals([("x-a", "b")]), True)]),
    "trailers that do not end it": ([], [h2raw.data(1, b"1"), h2raw.headers(1, literals([("x-a", "b")]))]),
    **{f"trailers {name!r}: {value!r}": ([], [h2raw.data(1, b"1"), h2raw.headers(1, literals([(name, value)]), True)])
       for name, value in (
           (":path", "/smuggled"), (":status", "200"), ("X-Upper", "v"), ("", "v"), ("x:y", "v"), ("x-a", "a\r\nb"),
           ("x-a", "a\0"), ("transfer-encoding", "chunked"), ("connection", "close"), ("content-length", "1"),
           ("host", "other"), ("x\r\n\r\nGET /smuggled HTTP/1.1", "v"),
       )},
}  # fmt: skip


@pytest.mark.parametrize("path", ["/", "/h2/x"])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_not_what_was_said_is_never_a_whole_request(
    bridge: Bridge, name: str, path: str
) -> None:
    client = dial(bridge.proxy.port)
    before, ended = len(bridge.one.seen), sum(r.ended for r in bridge.two.requests)
    fields, frames = BODIES[name]
    client.new_id()
    client.send(body(fields, *frames, path=path))
    answer = client.over(1)
    assert answer.reset == PROTOCOL_ERROR or answer.status == 400, answer
    assert client.get("/sentinel").body == b"ok" and client.get("/h2/sentinel").body == b"ok"
    assert len(bridge.one.seen) == before + 1 and sum(r.ended for r in bridge.two.requests) == ended + 1
    client.close()


SMUGGLED_DATA = h2raw.data(1, b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n", True)
BEHIND: dict[str, tuple[str, list[bytes]]] = {
    "a byte more": ("5", [h2raw.data(1, b"12345"), h2raw.data(1, b"6", True)]),
    "a request more": ("5", [h2raw.data(1, b"12345"), SMUGGLED_DATA]),
    "a length of 0": ("0", [SMUGGLED_DATA]),
    "a length of 0, twice": ("0", [h2raw.data(1, b""), SMUGGLED_DATA]),
}


@pytest.mark.parametrize("path", ["/", "/h2/x"])
@pytest.mark.parametrize("name", BEHIND)
def test_what_is_behind_the_declared_length_reaches_nobody(name: str, path: str) -> None:
    """By then the origin may have seen a whole request: as it was declared, and nothing else."""
    one, two = H1Origin(), Origin()
    length, frames = BEHIND[name]
    with serving(one, config=worker_config(one.port, two.port)) as proxy:
        client = dial(proxy.port)
        client.new_id()
        client.send(body([("content-length", length)], *frames, path=path))
        answer = client.over(1)
        assert answer.reset == PROTOCOL_ERROR or answer.status == 400, answer
        for sentinel in ("/sentinel", "/h2/sentinel"):
            assert client.get(sentinel).body == b"ok"
        # what was cut had a connection of its own, which the origin may read after the sentinel's
        wait_for(lambda: one.ended >= one.connections - 1, what="the end of the cut connection")
        declared = [m for m in one.seen if m.line != "GET /sentinel HTTP/1.1"]
        assert len(one.seen) == len(declared) + 1 and len(declared) <= (path == "/")
        assert all(m.line == "POST / HTTP/1.1" and m.body == b"12345"[: int(length)] for m in declared)
        assert all(len(r.body) <= int(length) for r in two.requests)
        client.close()
    two.close()


# ---- from HTTP/1.1 to HTTP/2 -----------------------------------------------------------------------------------------

H1_BAD = {
    "two lengths": b"POST /h2/x HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "length and chunks": b"POST /h2/x HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": b"POST /h2/x HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "folded": b"GET /h2/x HTTP/1.1\r\nHost: test\r\nX-A: b\r\n c\r\n\r\n",
    "space before the colon": b"GET /h2/x HTTP/1.1\r\nHost: test\r\nX-A : b\r\n\r\n",
    "no host": b"GET /h2/x HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /h2/x HTTP/1.1\r\nHost: test\r\nHost: other\r\n\r\n",
    "fragment": b"GET /h2/x#y HTTP/1.1\r\nHost: test\r\n\r\n",
    "NUL in a value": b"GET /h2/x HTTP/1.1\r\nHost: test\r\nX-A: a\0b\r\n\r\n",
    "bare CR in a value": b"GET /h2/x HTTP/1.1\r\nHost: test\r\nX-A: a\rb\r\n\r\n",
    "pseudo field": b"GET /h2/x HTTP/1.1\r\nHost: test\r\n:path: /smuggled\r\n\r\n",
    "empty name": b"GET /h2/x HTTP/1.1\r\nHost: test\r\n: x\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", H1_BAD)
def test_what_http1_says_badly_does_not_become_http2(bridge: Bridge, name: str) -> None:
    before = len(bridge.two.requests)
    peer = bridge.proxy.dial()
    peer.send(H1_BAD[name])
    assert read_answer(peer).status in (400, 501)
    client = dial(bridge.proxy.port)
    assert client.get("/h2/sentinel").body == b"ok"
    assert len(bridge.two.requests) == before + 1
    for one in (peer, client):
        one.close()


# ---- answers of an origin that breaks the rules ----------------------------------------------------------------------

STATUS: Fields = [(":status", "200")]
ANSWERS: dict[str, Fields] = {
    **{f"{name}: {value}": [*STATUS, (name, value)] for name, value in (
        ("connection", "close"), ("keep-alive", "timeout=5"), ("transfer-encoding", "chunked"), ("upgrade", "h2c"),
        ("proxy-connection", "close"), ("x-a", "a\r\nx-smuggled: 1"), ("x-a", "a\0"), ("X-Upper", "v"), ("", "v"),
        ("x:y", "v"), ("content-length", "5"), ("content-length", "a"), (":path", "/"), (":status", "200"),
    )},
    "no status": [("x-a", "b")],
    "a late status": [("x-a", "b"), (":status", "200")],
    **{f"status {value!r}": [(":status", value)] for value in ("", "20", "2000", "abc", "099", "101", "+20")},
    "1xx that ends": [(":status", "103")],
    "two lengths": [*STATUS, ("content-length", "1"), ("content-length", "2")],
}  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ANSWERS)
def test_a_malformed_answer_is_502(name: str, version: int) -> None:
    origin = Origin(inline=lambda request: request.raw_head(ANSWERS[name]), tolerant=True)
    with serving(config=worker_config(two=origin.port)) as proxy:
        if version == 1:
            status, fields, _ = proxy.get("/h2/x")
            assert status == 502 and "x-smuggled" not in fields
        else:
            client = dial(proxy.port)
            answer = client.get("/h2/x")
            assert answer.status == 502 and answer.get("x-smuggled") is None
            assert client.get("/direct").status == 200  # the client's connection has nothing to do with it
            client.close()
    assert all(request.reset_by in (None, PROTOCOL_ERROR) for request in origin.requests)
    origin.close()


def short(request: Request) -> None:
    request.head(200, [("content-length", "10")])
    request.raw(h2raw.data(request.id, b"123", True))


def long(request: Request) -> None:
    request.head(200, [("content-length", "2")])
    request.raw(h2raw.data(request.id, b"12") + h2raw.data(request.id, b"HTTP/1.1 200 OK\r\n\r\n", True))


def bad_trailers(request: Request) -> None:
    request.head(200)
    request.data(b"12")
    request.raw_head([("transfer-encoding", "chunked")])


def more_head(request: Request) -> None:
    request.head(200)
    request.data(b"12")
    request.raw_head([(":status", "200")], end=False)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("script", [short, long, bad_trailers, more_head])
def test_an_answer_that_turns_out_malformed_is_cut_and_looks_it(script: object, version: int) -> None:
    origin = Origin(inline=script, tolerant=True)  # type: ignore[arg-type]
    with serving(config=worker_config(two=origin.port)) as proxy:
        if version == 1:
            peer = proxy.dial()
            peer.send(b"GET /h2/x HTTP/1.1\r\nHost: test\r\n\r\n")
            whole = peer.rest()  # the connection ends
            if script is not long:
                assert not whole.endswith(b"0\r\n\r\n"), whole
            assert b"\r\n\r\n" in whole and whole.count(b"HTTP/1.1") == 1
        else:
            client = dial(proxy.port)
            answer = client.over(client.request(path="/h2/x"))
            assert (answer.reset is not None and not answer.ended) or answer.status == 502
            assert client.get("/direct").status == 200
            client.close()
    origin.close()


def test_a_block_of_an_origin_that_cannot_be_decoded_ends_its_connection_only() -> None:
    bad = [True]

    def inline(request: Request) -> None:
        if bad.pop() if bad else False:
            request.raw(h2raw.headers(request.id, h2raw.indexed(0), True))
        else:
            request.answer(200, [], b"ok")

    origin = Origin(inline=inline, tolerant=True)
    with serving(config=worker_config(two=origin.port)) as proxy:
        client = dial(proxy.port)
        assert client.get("/h2/x").status in (502, 503)
        assert client.get("/h2/x").body == b"ok"
        client.close()
    assert origin.connections == 2 and origin.links[0].goaways == [h2raw.COMPRESSION_ERROR]
    origin.close()
