"""h1_head, requests: request line, fields, what they decide, and every refusal by name."""

from __future__ import annotations

import pytest

from helpers.h1 import AGAIN, CODES, NAMES, head
from shim import h1_shim as h1

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"


def refused(data: bytes, name: str, **kind: bool) -> None:
    rc, _ = head(data, **kind)
    assert NAMES.get(rc, rc) == name, data


def parsed(data: bytes, **kind: bool):
    rc, msg = head(data, **kind)
    assert rc == len(data), (NAMES.get(rc, rc), data)
    return msg


def test_a_request_head():
    msg = parsed(b"GET /a/b?x=1&y HTTP/1.1\r\nHost: example.com:8080\r\nAccept: */*\r\nX-Empty:\r\n\r\n")
    assert (msg["method"], msg["method_name"], msg["minor"]) == (1, b"GET", 1)
    assert (msg["target"], msg["path"], msg["query"]) == (b"/a/b?x=1&y", b"/a/b", b"x=1&y")
    assert msg["host"] == b"example.com:8080"
    assert [(n, v) for n, v, _, _ in msg["headers"]] == [
        (b"Host", b"example.com:8080"),
        (b"Accept", b"*/*"),
        (b"X-Empty", b""),
    ]
    assert (msg["flags"], msg["body"], msg["content_length"]) == (0, 0, -1)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"GET / HTTP/1.1", "ok"),
        (b"M-SEARCH /x HTTP/1.1", "ok"),
        (b"get / HTTP/1.1", "ok"),
        (b"G@T / HTTP/1.1", "EBAD"),
        (b" GET / HTTP/1.1", "EBAD"),
        (b"GET  / HTTP/1.1", "EBAD"),
        (b"GET /  HTTP/1.1", "EBAD"),
        (b"GET / HTTP/1.1 ", "EBAD"),
        (b"GET\t/ HTTP/1.1", "EBAD"),
        (b"GET /a b HTTP/1.1", "EBAD"),
        (b"GET /\x7f HTTP/1.1", "EBAD"),
        (b"GET /\x01 HTTP/1.1", "EBAD"),
        (b"GET /\xc3\xa4 HTTP/1.1", "EBAD"),
        (b"GET /#frag HTTP/1.1", "EBAD"),
        (b"GET / HTTP/1.1\r", "EBAD"),
        (b"GET /", "EBAD"),
        (b"GET", "EBAD"),
        (b"GET x HTTP/1.1", "EBAD"),
        (b"GET a:80 HTTP/1.1", "EBAD"),
        (b"GET * HTTP/1.1", "EBAD"),
        (b"OPTIONS * HTTP/1.1", "ok"),
        (b"CONNECT a:443 HTTP/1.1", "EMETHOD"),
        (b"A" * 64 + b" / HTTP/1.1", "ok"),
        (b"A" * 65 + b" / HTTP/1.1", "EMETHOD"),
        (b"GET / HTTP/2.0", "EVERSION"),
        (b"GET / HTTP/0.9", "EVERSION"),
        (b"GET / HTTP/1.2", "EVERSION"),
        (b"GET / HTTP/1.10", "EBAD"),
        (b"GET / HTTP/01.1", "EBAD"),
        (b"GET / http/1.1", "EBAD"),
        (b"GET / HTTP/1,1", "EBAD"),
        (b"GET / HTTP/11", "EBAD"),
        (b"GET / HTTPS/1.1", "EBAD"),
        (b"GET / ICY/1.1", "EBAD"),
        (b"GET ftp://a/ HTTP/1.1", "EBAD"),
        (b"GET http:///x HTTP/1.1", "EHOST"),
        (b"GET http://u@a/x HTTP/1.1", "EHOST"),
        (b"GET http://a:99999/x HTTP/1.1", "EHOST"),
    ],
)
def test_request_line(line, name):
    rc, _ = head(line + b"\r\nHost: a\r\n\r\n")
    assert ("ok" if rc > 0 else NAMES[rc]) == name


@pytest.mark.parametrize(
    ("field", "name"),
    [
        (b"A : b", "EBAD"),
        (b"A\t: b", "EBAD"),
        (b": b", "EBAD"),
        (b"A", "EBAD"),
        (b"A b: c", "EBAD"),
        (b"A(: c", "EBAD"),
        (b"\xc3: c", "EBAD"),
        (b"A: b\x00c", "EBAD"),
        (b"A: b\x0bc", "EBAD"),
        (b"A: b\x7fc", "EBAD"),
        (b"A: b\rc", "EBAD"),
        (b"A: b\nB: c", "EBAD"),
        (b"A: b\r\n c", "EBAD"),
        (b"A: b\r\n\tc", "EBAD"),
        (b"A: b\r\r\n", "EBAD"),
        (b"Content-Length: ", "EFRAMING"),
        (b"Content-Length: +5", "EFRAMING"),
        (b"Content-Length: -5", "EFRAMING"),
        (b"Content-Length: 5 5", "EFRAMING"),
        (b"Content-Length: 5, 5", "EFRAMING"),
        (b"Content-Length: 0x5", "EFRAMING"),
        (b"Content-Length: 5.0", "EFRAMING"),
        (b"Content-Length: 99999999999999999999", "EFRAMING"),
        (b"Content-Length: 9223372036854775808", "EFRAMING"),
        (b"Content-Length: 5\r\nContent-Length: 5", "EFRAMING"),
        (b"Content-Length: 5\r\ncontent-length: 6", "EFRAMING"),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", "EFRAMING"),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5", "EFRAMING"),
        (b"Transfer-Encoding: ", "EFRAMING"),
        (b"Transfer-Encoding: chunked, chunked", "EFRAMING"),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "EFRAMING"),
        (b"Transfer-Encoding: chunked, identity", "EFRAMING"),
        (b"Transfer-Encoding: chunked,", "EFRAMING"),
        (b"Transfer-Encoding: , chunked", "EFRAMING"),
        (b'Transfer-Encoding: "chunked"', "EFRAMING"),
        (b"Transfer-Encoding: chunked;q=1", "EFRAMING"),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "EFRAMING"),
        (b"Transfer-Encoding: identity", "ETE"),
        (b"Transfer-Encoding: gzip, chunked", "ETE"),
        (b"Transfer-Encoding: xchunked", "ETE"),
        (b"Transfer-Encoding: chunke", "ETE"),
        (b"Host: a", "EHOST"),
        (b"host: b", "EHOST"),
        (b"Expect: 200-ok", "EEXPECT"),
        (b"Expect: 100-continue, x", "EEXPECT"),
        (b"Expect: ", "EEXPECT"),
        (b"Connection: close;x", "EBAD"),
    ],
)
def test_refused_fields(field, name):
    refused(GET + field + b"\r\n\r\n", name)


def test_leading_white_space_of_the_first_field():
    refused(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "EBAD")
    refused(b"GET / HTTP/1.1\r\n\r\n", "EHOST")


def test_one_empty_line_before_a_request_is_skipped():
    msg = parsed(b"\r\n" + GET + b"\r\n")
    assert msg["head_n"] == len(GET) + 4
    refused(b"\r\n\r\n" + GET + b"\r\n", "EBAD")
    refused(b"\n" + GET + b"\r\n", "EBAD")
    refused(b"\r" + GET + b"\r\n", "EBAD")


@pytest.mark.parametrize(
    ("seen", "then"), [(b"A: b\r", b"x"), (b"A: b\r\n", b" "), (b"A: b\r\n", b"\t"), (b"A", b"\x00")]
)
def test_a_slow_sender_is_refused_at_the_byte_that_spoils_it(seen, then):
    before = GET + seen
    assert h1.head_code(before, False, 0) == AGAIN
    assert h1.head_code(before + then, False, len(before)) == CODES["EBAD"]


def test_incomplete_heads_ask_for_more():
    assert head(GET)[0] == AGAIN
    assert head(b"")[0] == AGAIN
    assert head(b"HTTP/1.1 200 OK\r\nA: b\r\n", response=True)[0] == AGAIN


def test_content_length_is_normalised():
    for text, value in ((b"0", 0), (b"5", 5), (b"0005", 5), (b"000", 0), (b"4611686018427387904", 1 << 62)):
        msg = parsed(GET + b"Content-Length: " + text + b"\r\n\r\n")
        assert msg["content_length"] == value
        assert msg["headers"][1][1] == b"%d" % value
        assert msg["body"] == (1 if value else 0)


def test_limits():
    many = b"".join(b"A%d: b\r\n" % i for i in range(99))
    assert len(parsed(GET + many + b"\r\n")["headers"]) == 100
    refused(GET + many + b"One: more\r\n\r\n", "EHEAD")
    fill = b"A: " + b"x" * (61440 - len(GET) - 3 - 4) + b"\r\n\r\n"
    assert len(GET + fill) == 61440
    parsed(GET + fill)
    refused(GET + b"A" + fill, "EHEAD")
    refused(GET + b"A: " + b"x" * 62000, "EHEAD")
    longest = b"/" + b"x" * 16383
    parsed(b"GET " + longest + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    refused(b"GET " + longest + b"x HTTP/1.1\r\nHost: a\r\n\r\n", "ETARGET")
    assert head(b"GET " + longest + b"xx")[0] == CODES["ETARGET"]
