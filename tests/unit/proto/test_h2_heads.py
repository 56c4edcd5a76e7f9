"""HTTP/2 heads: each reason to refuse a response, a trailer section or a request; what is kept."""

from __future__ import annotations

import hpack
import pytest
from shim.h2_shim import Side

from helpers.h2side import CANCEL, GET, PROTOCOL, begun, head, raw, reset_of

EHEAD, ETARGET, EMETHOD, EEXPECT = -23, -22, -27, -30
N_MALFORMED, N_HEADER_LIST = 7, 10
OK = (":status", "200")
OPEN_HEAD = ("END_HEADERS",)

# What no field may be, in whatever section.
BAD_FIELDS = {
    "upper case": ("X-A", "1"),
    "an empty name": ("", "1"),
    "a colon in a name": ("a:b", "c"),
    "a space in a name": ("a b", "c"),
    "a control in a name": ("a\x01", "c"),
    "obs-text in a name": (b"a\xff", b"c"),
    "a line break": ("a", "b\r\nc: d"),
    "a line feed": ("a", "b\nc"),
    "a carriage return": ("a", "b\rc"),
    "NUL": ("a", "b\0"),
    "DEL": ("a", "b\x7f"),
    "a space in front": ("a", " b"),
    "a tab behind": ("a", "b\t"),
    "a space alone": ("a", " "),
    "connection": ("connection", "close"),
    "keep-alive": ("keep-alive", "timeout=5"),
    "proxy-connection": ("proxy-connection", "close"),
    "transfer-encoding": ("transfer-encoding", "chunked"),
    "upgrade": ("upgrade", "x"),
    "te": ("te", "gzip"),
    "a pseudo field behind others": (":status", "200"),
    "an unknown pseudo field": (":other", "1"),
    "a colon alone": (":", "1"),
}

RESPONSES = {
    **{name: [OK, ("a", "b"), field] for name, field in BAD_FIELDS.items()},
    "nothing": [],
    "no status": [("a", "b")],
    "a status twice": [OK, OK],
    "an unknown pseudo field first": [(":other", "1"), OK],
    ":method": [(":method", "GET"), OK],
    ":path": [OK, (":path", "/")],
    ":authority": [OK, (":authority", "x.test")],
    ":protocol": [OK, (":protocol", "websocket")],
    "an empty status": [(":status", "")],
    "a status of two digits": [(":status", "20")],
    "a status of four digits": [(":status", "2000")],
    "a status of letters": [(":status", "abc")],
    "a status with a sign": [(":status", "+20")],
    "status 099": [(":status", "099")],
    "status 101": [(":status", "101")],
    "two lengths": [OK, ("content-length", "1"), ("content-length", "2")],
    "a length that is none": [OK, ("content-length", "+1")],
    "an empty length": [OK, ("content-length", "")],
    "a list of lengths": [OK, ("content-length", "1,1")],
    "a length of 20 digits": [OK, ("content-length", "1" * 20)],
    "a length above 2^62": [OK, ("content-length", "9" * 19)],
    "a list of lengths in one field": [OK, ("content-length", "5, 5")],
    "too many fields": [OK, *((f"x-{i}", "v") for i in range(101))],
    "too many bytes": [OK, *((f"x-{i}", "v" * 7000) for i in range(9))],
}


def asked(method: bytes = b"GET") -> tuple[Side, int]:
    """A client that waits for an answer."""
    side = begun(server=False)
    sid = side.request(method, b"/", [(b"host", b"a.test")])
    side.take()
    return side, sid


def refused_by(side: Side, sid: int) -> None:
    """The stream alone was reset, its owner was told once, and the tables are right."""
    assert reset_of(side) == PROTOCOL
    assert [e for e in side.events if e[0] != "data"] == [("reset", sid, PROTOCOL, False)]
    assert side.count(N_MALFORMED) == 1
    assert side.failed() == (0, "")
    assert side.faults() == []
    assert side.close() == (0, 0, 0)


def blocks(sid: int, coder: hpack.Encoder, fields, end: bool) -> bytes:
    """HEADERS and as many CONTINUATIONs as it takes."""
    block = coder.encode(fields)
    parts = [block[at : at + 16000] for at in range(0, len(block), 16000)] or [b""]
    out = b""
    for i, part in enumerate(parts):
        flags = (4 if i == len(parts) - 1 else 0) | (1 if end and i == 0 else 0)
        out += raw(9 if i else 1, flags, sid, part)
    return out


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("name", RESPONSES)
def test_malformed_responses(name, end):
    side, sid = asked()
    coder = hpack.Encoder()
    assert side.receive(blocks(sid, coder, RESPONSES[name], end)) == 0
    # a second request is answered with what the refused block has left in the tables
    refused = list(side.events)
    again = side.request(b"GET", b"/", [(b"host", b"a.test")])
    assert side.receive(raw(1, 5, again, coder.encode([OK, *RESPONSES["no status"]]))) == 0
    assert side.events[len(refused) :] == [("head", again, 200, [(b"a", b"b")], True)]
    side.release(again)
    side.events[:] = refused
    refused_by(side, sid)


def test_an_interim_response_does_not_end_the_stream():
    side, sid = asked()
    assert side.receive(head(sid, [(":status", "103")])) == 0
    refused_by(side, sid)


def test_a_response_is_not_shorter_than_it_says():
    side, sid = asked()
    assert side.receive(head(sid, [OK, ("content-length", "5")])) == 0
    refused_by(side, sid)


@pytest.mark.parametrize("size", [4, 6])
def test_a_response_is_as_long_as_it_says(size):
    side, sid = asked()
    assert side.receive(head(sid, [OK, ("content-length", "5")], OPEN_HEAD)) == 0
    side.events.clear()
    assert side.receive(raw(0, 1, sid, b"x" * size)) == 0
    refused_by(side, sid)


def test_data_does_not_come_before_the_head():
    side, sid = asked()
    assert side.receive(head(sid, [(":status", "103")], OPEN_HEAD)) == 0
    side.events.clear()
    assert side.receive(raw(0, 1, sid, b"x")) == 0
    refused_by(side, sid)


NO_CONTENT = {
    "to HEAD": (b"HEAD", [OK, ("content-length", "5")]),
    "304": (b"GET", [(":status", "304"), ("content-length", "5")]),
    "204": (b"GET", [(":status", "204")]),
    "a length said twice": (b"GET", [OK, ("content-length", "0"), ("content-length", "0")]),
}


@pytest.mark.parametrize("name", NO_CONTENT)
def test_responses_without_content(name):
    method, fields = NO_CONTENT[name]
    side, sid = asked(method)
    assert side.receive(head(sid, fields)) == 0
    (event,) = side.events
    assert event[0] == "head"
    assert event[4]
    side.release(sid)
    assert side.close() == (0, 0, 0)


@pytest.mark.parametrize("name", ["to HEAD", "304", "204"])
def test_responses_without_content_have_none(name):
    method, fields = NO_CONTENT[name]
    side, sid = asked(method)
    assert side.receive(head(sid, fields, OPEN_HEAD)) == 0
    side.events.clear()
    assert side.receive(raw(0, 1, sid, b"x")) == 0
    refused_by(side, sid)


# ---- trailers --------------------------------------------------------------------------------------------

NO_TRAILERS = (
    "host", "content-length", "transfer-encoding", "trailer", "expect", "authorization",
    "proxy-authorization", "proxy-authenticate", "cookie", "set-cookie", "location", "content-type",
    "http2-settings", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host",
    "x-forwarded-client-cert", "x-envoy-expected-rq-timeout-ms", "x-fastmesh-h1", "www-authenticate",
    "content-encoding", "content-range", "cache-control", "max-forwards", "range", "forwarded", "pragma",
    "x_forwarded_for",
)  # fmt: skip
TRAILERS = {
    **{name: [("a", "b"), field] for name, field in BAD_FIELDS.items()},
    "a status first": [OK],
    ":path first": [(":path", "/")],
    **{name: [(name, "x")] for name in NO_TRAILERS},
    "te: trailers": [("te", "trailers")],
    "a length": [("content-length", "0")],
    "too many fields": [(f"x-{i}", "v") for i in range(101)],
    "too many bytes": [(f"x-{i}", "v" * 7000) for i in range(9)],
}  # fmt: skip


def before_trailers(server: bool) -> tuple[Side, int]:
    """A stream on which a head and some DATA have come."""
    if server:
        side, sid = begun(), 1
        start = [(":method", "POST"), *GET[1:]]
    else:
        side, sid = asked()
        start = [OK]
    assert side.receive(head(sid, start, OPEN_HEAD) + raw(0, 0, sid, b"x")) == 0
    side.events.clear()
    return side, sid


@pytest.mark.parametrize("is_server", [True, False])
@pytest.mark.parametrize("name", TRAILERS)
def test_malformed_trailers(name, is_server):
    side, sid = before_trailers(is_server)
    assert side.receive(blocks(sid, hpack.Encoder(), TRAILERS[name], True)) == 0
    refused_by(side, sid)


@pytest.mark.parametrize("is_server", [True, False])
def test_trailers_end_the_stream(is_server):
    side, sid = before_trailers(is_server)
    assert side.receive(head(sid, [("a", "b")], OPEN_HEAD)) == 0
    refused_by(side, sid)


@pytest.mark.parametrize("is_server", [True, False])
def test_trailers_do_not_come_before_all_of_the_body(is_server):
    side, sid = (begun(), 1) if is_server else asked()
    start = [(":method", "POST"), *GET[1:]] if is_server else [OK]
    assert side.receive(head(sid, [*start, ("content-length", "2")], OPEN_HEAD) + raw(0, 0, sid, b"x")) == 0
    side.events.clear()
    assert side.receive(head(sid, [("a", "b")])) == 0
    refused_by(side, sid)


@pytest.mark.parametrize("is_server", [True, False])
def test_trailers_that_are_well_formed(is_server):
    side, sid = before_trailers(is_server)
    fields = [("grpc-status", "0"), ("grpc-message", ""), ("x", b"\xff\t!")]
    assert side.receive(head(sid, fields)) == 0
    assert side.events == [
        ("trailers", sid, [(b"grpc-status", b"0"), (b"grpc-message", b""), (b"x", b"\xff\t!")])
    ]
    side.reset(sid, CANCEL)
    assert side.close() == (0, 0, 0)


# ---- requests --------------------------------------------------------------------------------------------


def request(method="GET", path="/", authority="x.test", *more):
    fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority), *more]
    return [field for field in fields if field[1] is not None]


CONNECT = (":method", "CONNECT")
REQUESTS = {
    **{name: [*GET, ("a", "b"), field] for name, field in BAD_FIELDS.items()},
    "CONNECT without a port": [CONNECT, (":authority", "x.test")],
    "CONNECT with an empty port": [CONNECT, (":authority", "x.test:")],
    "CONNECT to digits": [CONNECT, (":authority", "123")],
    "CONNECT to IPv6 without a port": [CONNECT, (":authority", "[::1]")],
    "CONNECT with Host alone": [CONNECT, ("host", "x.test:443")],
    "CONNECT with nothing": [CONNECT],
    "CONNECT with a scheme": [CONNECT, (":authority", "x.test:1"), (":scheme", "http")],
    "CONNECT with another Host": [CONNECT, (":authority", "x.test:1"), ("host", "x.test:2")],
    "an empty Host beside :authority": [*GET, ("host", "")],
    "an empty :authority": request(authority=""),
    "an empty :authority beside Host": [*request(authority=""), ("host", "x.test")],
    "an empty :authority twice": [*request(authority=""), (":authority", "x.test")],
    "an empty Host": [*request(authority=None), ("host", "")],
    "two Hosts": [*request(authority=None), ("host", "x.test"), ("host", "y.test")],
    "an empty Host and another": [*request(authority=None), ("host", ""), ("host", "x.test")],
    "an empty method": request(method=""),
    "a method with a space": request(method="GET /"),
    "an empty protocol": [CONNECT, *GET[1:], (":protocol", "")],
    "extended CONNECT with Host alone": [
        CONNECT, *request(None, "/", None), (":protocol", "websocket"), ("host", "x.test"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_malformed_requests(name):
    side = begun()
    assert side.receive(head(1, REQUESTS[name])) == 0
    assert side.events == []
    assert reset_of(side) == PROTOCOL
    assert side.close() == (0, 0, 0)


def literal_host(block: bytes) -> bytes:
    """:method GET, :scheme http, :path /, and what is given."""
    return raw(1, 5, 1, b"\x82\x86\x84" + block)


# An empty value has no bytes of its own: it may come from the static table.
EMPTY = {
    "host": b"\x41\x06x.test\xa6",
    "host first": b"\xa6\x41\x06x.test",
    ":authority": b"\x81\x66\x06x.test",
    ":authority twice": b"\x81\x41\x06x.test",
    "host twice": b"\xa6\x66\x06x.test",
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_authority_from_the_static_table(name):
    side = begun()
    assert side.receive(literal_host(EMPTY[name])) == 0
    assert side.events == []
    assert reset_of(side) == PROTOCOL


ACCEPTED = {
    "a port": ("x.test:443", b"x.test:443"),
    "IPv6": ("[::1]:1", b"[::1]:1"),
    "port 0": ("x.test:0", b"x.test:0"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_connect_names_a_port(name):
    authority, target = ACCEPTED[name]
    side = begun()
    assert side.receive(head(1, [CONNECT, (":authority", authority)], OPEN_HEAD)) == 0
    assert side.events == [("head", 1, (b"CONNECT", target), [(b"host", target)], False)]


STATUS = {
    "too many fields": ([*GET, *((f"x-{i}", "v") for i in range(100))], EHEAD),
    "too many bytes": ([*GET, *((f"x-{i}", "v" * 7000) for i in range(9))], EHEAD),
    "a long target": (request(path="/" + "a" * 16384), ETARGET),
    "a long method": (request(method="M" * 65), EMETHOD),
    "an expectation": ([*GET, ("expect", "the-unexpected")], EEXPECT),
}


@pytest.mark.parametrize("name", STATUS)
def test_requests_that_are_answered_with_a_status(name):
    fields, code = STATUS[name]
    side = begun()
    assert side.receive(blocks(1, hpack.Encoder(), fields, True)) == 0
    assert side.events == [("refused", 1, code)]
    assert side.count(N_HEADER_LIST) == (code == EHEAD)
    assert side.answer(1, 400, end=True) == 0
    side.release(1)
    assert side.close() == (0, 0, 0)


def test_a_method_of_64_bytes_is_one():
    side = begun()
    assert side.receive(head(1, request(method="M" * 64))) == 0
    assert side.events[0][2] == (b"M" * 64, b"/")


# ---- never-indexed literals (RFC 7541 7.1.3) -------------------------------------------------------------


def passed_on(fields) -> dict[str, bool]:
    """Name -> whether it is a never-indexed literal behind a hop of ours, the third time that it passes."""
    one, two = begun(), begun(server=False)
    one.next = two
    coder, seen = hpack.Encoder(), hpack.Decoder()
    got = []
    for sid in (1, 3, 5):
        assert one.receive(raw(1, 5, sid, coder.encode(fields))) == 0
        assert one.events[-1][0] == "head", one.events
        got = seen.decode(two.take()[9:])
    return {str(f[0]): isinstance(f, hpack.NeverIndexedHeaderTuple) for f in got}


NEVER = {
    ":authority": {":authority"},
    "host": {":authority"},
    ":path": {":path", ":method", ":scheme"},
    ":method": {":path", ":method", ":scheme"},
    "x-a": {"x-a"},
    None: set(),
}


@pytest.mark.parametrize("which", NEVER)
def test_what_is_never_indexed_stays_so(which):
    fields = [*request("PURGE", "/secret?token=1"), ("x-a", "b")]
    if which == "host":
        fields = [f for f in fields if f[0] != ":authority"] + [("host", "x.test")]
    marked = [hpack.NeverIndexedHeaderTuple(*f) if f[0] == which else f for f in fields]
    got = passed_on(marked)
    assert {name for name, never in got.items() if never} == NEVER[which]
    assert set(got) == {":method", ":scheme", ":path", ":authority", "x-a"}
