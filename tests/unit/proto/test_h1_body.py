"""h1_body: where a body ends, the chunked coding, trailers, truncation."""

from __future__ import annotations

import pytest

from helpers.h1 import BODY_CHUNKED, BODY_CLOSE, BODY_LENGTH, BODY_NONE, BODY_TUNNEL, CODES, NAMES, body
from shim import h1_shim as h1


def decoded(data: bytes) -> tuple[bytes, bytes]:
    code, content, rest, state = body(data)
    assert code == 0, NAMES.get(code)
    assert rest is not None and state["done"] and state["total"] == len(content)
    return content, rest


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"005\r\nhello\r\n000\r\n\r\n", b"hello"),
        (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
        (b"1;a\r\nx\r\n0;b=c\r\n\r\n", b"x"),
        (b'1;a="b \\" \\\\ ;,=";c = d ; e\r\nx\r\n0\r\n\r\n', b"x"),
        (b"1 ; a\r\nx\r\n0\r\n\r\n", b"x"),
        (b"1\r\nx\r\n0\r\nX-Sum: 1\r\nB: \r\n\r\n", b"x"),
    ],
)
def test_chunked(data, content):
    for behind in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n", b"0\r\n\r\n"):
        assert decoded(data + behind) == (content, behind)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\nx\r\n",
        b"1 \r\nx\r\n",
        b"1\t\r\nx\r\n",
        b"1 1\r\nx\r\n",
        b"1\nx\r\n",
        b"1\rx\r\n",
        b"1\r\r\nx\r\n",
        b"1\r\nxy\r\n",
        b"1\r\nx\n",
        b"1\r\nx\rz",
        b"1\r\nx0\r\n\r\n",
        b"5\r\nhello\r\n\r\n",
        b"1,\r\nx\r\n",
        b"1;\r\nx\r\n",
        b"1;;a\r\nx\r\n",
        b"1;a;\r\nx\r\n",
        b"1;a=\r\nx\r\n",
        b"1;=b\r\nx\r\n",
        b"1;a=b=c\r\nx\r\n",
        b"1;a b\r\nx\r\n",
        b"1;a \r\nx\r\n",
        b'1;a="b\r\nx\r\n',
        b'1;a="b"c\r\nx\r\n',
        b'1;a="b\x00"\r\nx\r\n',
        b'1;a="\\\r"\r\nx\r\n',
        b"1;a\nx\r\n",
        b"1;a\x7f\r\nx\r\n",
        b"1;a\xff\r\nx\r\n",
        b"4000000000000001\r\n",
        b"10000000000000000\r\n",
        b"ffffffffffffffff\r\n",
        b"00000000000000001\r\n",
        b"1;" + b"a" * 260 + b"\r\nx\r\n",
    ],
)
def test_bad_chunks(data):
    code, _, _, _ = body(data)
    assert NAMES.get(code) == "ECHUNK"


def test_a_body_never_grows_past_what_can_be_counted():
    most = b"3fffffffffffffff\r\n"  # 2^62 - 1
    assert body(b"1\r\nx\r\n" + most)[0] == 0
    assert body(b"2\r\nxx\r\n" + most)[0] == CODES["ECHUNK"]


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Upgrade",
        "Expect",
        "Authorization",
        "Proxy-Authorization",
        "Proxy-Authenticate",
        "WWW-Authenticate",
        "Cookie",
        "Set-Cookie",
        "HTTP2-Settings",
        "Location",
        "Content-Type",
        "Content-Encoding",
        "Content-Range",
        "Range",
        "Cache-Control",
        "Pragma",
        "Max-Forwards",
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Client-Cert",
        "X-Envoy-Expected-Rq-Timeout-Ms",
    ],
)
def test_fields_that_may_not_be_trailers(name):
    assert h1.trailers(name.encode() + b": 1\r\n\r\n")[0] == CODES["ETRAILER"]
    assert h1.trailers(b"X-" + name.encode() + b"s: 1\r\n\r\n")[0] == 1


def test_extensions_of_a_whole_body_are_bounded():
    chunk = b"1;" + b"a" * 200 + b"\r\nx\r\n"
    assert body(chunk * 50 + b"0\r\n\r\n")[:2] == (0, b"x" * 50)
    assert body(chunk * 100 + b"0\r\n\r\n")[0] == CODES["ECHUNK"]


@pytest.mark.parametrize(
    "section",
    [
        b"Content-Length: 5\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n",
        b"HOST: a\r\n\r\n",
        b"Authorization: x\r\n\r\n",
        b"Set-Cookie: x\r\n\r\n",
        b"X-Forwarded-For: 1.2.3.4\r\n\r\n",
        b"X_Forwarded_For: 1.2.3.4\r\n\r\n",
        b"Content_length: 5\r\n\r\n",
        b"A: b\r\nTE: x\r\n\r\n",
        b"A : b\r\n\r\n",
        b" A: b\r\n\r\n",
        b"A: b\r\n c\r\n\r\n",
        b"A: b\n\r\n",
        b"A: b\r\n\n",
        b"\n",
        b"\rx",
        b"A: \x00\r\n\r\n",
        b"A\r\n\r\n",
        b"A: b\r\n" * 101 + b"\r\n",
        b"A: " + b"b" * 8300,
    ],
)
def test_bad_trailers(section):
    code, _, _, _ = body(b"1\r\nx\r\n0\r\n" + section)
    assert NAMES.get(code) == "ETRAILER"
    if section.endswith(b"\r\n\r\n") and len(section) < 500:
        assert h1.trailers(section)[0] == CODES["ETRAILER"]


def test_trailer_sections():
    assert h1.trailers(b"\r\n") == (0, [])
    assert h1.trailers(b"A: b\r\nGrpc-Status:  0 \r\n\r\n") == (2, [(b"A", b"b"), (b"Grpc-Status", b"0")])
    for bad in (b"", b"A: b\r\n", b"A: b\r\n\r\nC: d\r\n\r\n", b"A: b\r\n\r\n\r\n"):
        assert h1.trailers(bad)[0] == CODES["ETRAILER"]
    assert h1.trailers(b"A: b\r\nC: d\r\n\r\n", 1)[0] == CODES["ETRAILER"]
    largest = b"A: " + b"b" * (8192 - 7) + b"\r\n\r\n"
    assert body(b"0\r\n" + largest)[0] == 0
    assert body(b"0\r\nA" + largest)[0] == CODES["ETRAILER"]


def test_a_body_of_known_length():
    assert body(b"helloGET", BODY_LENGTH, 5)[:3] == (0, b"hello", b"GET")
    b = h1.Body(BODY_LENGTH, 5)
    assert b.feed(b"hell") == (0, b"hell", None)
    assert b.eof() < 0
    assert b.feed(b"o") == (0, b"o", b"")
    assert b.eof() == 0


def test_bodies_without_an_end_of_their_own():
    for kind in (BODY_CLOSE, BODY_TUNNEL):
        b = h1.Body(kind)
        assert b.feed(b"abc") == (0, b"abc", None)
        assert b.eof() == 0
    assert h1.Body(BODY_NONE).feed(b"GET") == (0, b"", b"GET")


def test_a_chunked_body_cut_short_is_truncated():
    whole = b"5\r\nhello\r\n0\r\nA: b\r\n\r\n"
    for n in range(len(whole)):
        b = h1.Body(BODY_CHUNKED)
        b.feed(whole[:n])
        assert b.eof() == -2
    b = h1.Body(BODY_CHUNKED)
    b.feed(whole)
    assert b.eof() == 0 and b.state["has_trailers"]
    assert b.trailer_section == b"A: b\r\n\r\n"


def test_the_trailer_section_is_handed_out_alone_however_it_arrives():
    section = b"A: b\r\nC: d\r\n\r\n"
    whole = b"1\r\nx\r\n0;a\r\n" + section
    for size in range(1, len(whole) + 1):
        b = h1.Body(BODY_CHUNKED)
        for at in range(0, len(whole), size):
            b.feed(whole[at : at + size] + (b"GET" if at + size >= len(whole) else b""))
        assert b.trailer_section == section
        assert h1.trailers(b.trailer_section) == (2, [(b"A", b"b"), (b"C", b"d")])
