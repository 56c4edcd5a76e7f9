"""h1_head, responses: status line, framing, and where the body ends by request and status."""

from __future__ import annotations

import pytest

from helpers.h1 import BODY_CHUNKED, BODY_CLOSE, BODY_LENGTH, BODY_NONE, BODY_TUNNEL, NAMES, head

GET, HEAD, CONNECT = 1, 2, 9
CHUNKED = b"Transfer-Encoding: chunked\r\n"
FIVE = b"Content-Length: 5\r\n"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"HTTP/1.1 200 OK", "ok"),
        (b"HTTP/1.0 200 OK", "ok"),
        (b"HTTP/1.1 200 ", "ok"),
        (b"HTTP/1.1 200", "ok"),
        (b"HTTP/1.1 999 \xff\t ok", "ok"),
        (b"HTTP/1.1 100 ", "ok"),
        (b"HTTP/1.1 099 x", "EBAD"),
        (b"HTTP/1.1 1000 x", "EBAD"),
        (b"HTTP/1.1 20 x", "EBAD"),
        (b"HTTP/1.1 2x0 x", "EBAD"),
        (b"HTTP/1.1 +20 x", "EBAD"),
        (b"HTTP/1.1 200x", "EBAD"),
        (b"HTTP/1.1 200\tOK", "EBAD"),
        (b"HTTP/1.1  200 OK", "EBAD"),
        (b"HTTP/1.1\t200 OK", "EBAD"),
        (b"HTTP/1.1 200 O\rK", "EBAD"),
        (b"HTTP/1.1 200 O\nK", "EBAD"),
        (b"HTTP/1.1 200 O\x7fK", "EBAD"),
        (b" HTTP/1.1 200 OK", "EBAD"),
        (b"\r\nHTTP/1.1 200 OK", "EBAD"),
        (b"http/1.1 200 OK", "EBAD"),
        (b"ICY 200 OK", "EBAD"),
        (b"HTTP/2 200 OK", "EBAD"),
        (b"HTTP/2.0 200 OK", "EVERSION"),
        (b"HTTP/1.9 200 OK", "EVERSION"),
        (b"", "EBAD"),
    ],
)
def test_status_line(line, name):
    rc, msg = head(line + b"\r\nServer: x\r\n\r\n", response=True)
    assert ("ok" if rc > 0 else NAMES[rc]) == name
    if msg:
        assert msg["reason"] == line[13:] and msg["status"] == int(line[9:12]) and msg["flags"] & 1


@pytest.mark.parametrize(
    ("status", "method", "fields", "body"),
    [
        (200, GET, FIVE, BODY_LENGTH),
        (200, GET, CHUNKED, BODY_CHUNKED),
        (200, GET, b"", BODY_CLOSE),
        (200, GET, b"Content-Length: 0\r\n", BODY_NONE),
        (200, HEAD, FIVE, BODY_NONE),
        (200, HEAD, CHUNKED, BODY_NONE),
        (200, HEAD, b"", BODY_NONE),
        (404, HEAD, FIVE, BODY_NONE),
        (304, GET, FIVE, BODY_NONE),
        (304, GET, CHUNKED, BODY_NONE),
        (204, GET, b"", BODY_NONE),
        (100, GET, b"", BODY_NONE),
        (103, HEAD, b"", BODY_NONE),
        (101, GET, b"", BODY_TUNNEL),
        (200, CONNECT, FIVE, BODY_TUNNEL),
        (299, CONNECT, CHUNKED, BODY_TUNNEL),
        (407, CONNECT, FIVE, BODY_LENGTH),
        (500, GET, FIVE, BODY_LENGTH),
    ],
)
def test_where_the_body_ends(status, method, fields, body):
    rc, msg = head(b"HTTP/1.1 %d x\r\n%s\r\n" % (status, fields), response=True, request_method=method)
    assert rc > 0 and msg is not None
    assert msg["body"] == body


@pytest.mark.parametrize(
    ("version", "status", "fields", "name"),
    [
        (1, 200, FIVE + CHUNKED, "EFRAMING"),
        (1, 200, CHUNKED + FIVE, "EFRAMING"),
        (1, 200, FIVE + FIVE, "EFRAMING"),
        (1, 200, b"Content-Length: 5, 5\r\n", "EFRAMING"),
        (1, 200, b"Transfer-Encoding: chunked, gzip\r\n", "EFRAMING"),
        (1, 200, b"Transfer-Encoding: gzip\r\n", "ETE"),
        (1, 304, FIVE + CHUNKED, "EFRAMING"),
        (1, 204, CHUNKED, "EFRAMING"),
        (1, 100, CHUNKED, "EFRAMING"),
        (1, 101, CHUNKED, "EFRAMING"),
        (1, 204, FIVE, "EFRAMING"),
        (1, 101, FIVE, "EFRAMING"),
        (0, 200, CHUNKED, "EFRAMING"),
        (1, 200, b"X: a\r\n b\r\n", "EBAD"),
        (1, 200, b"X : a\r\n", "EBAD"),
        (1, 200, b"X: a\nY: b\r\n", "EBAD"),
        (1, 200, b"X: \x00\r\n", "EBAD"),
        (1, 200, b"A: b\r\n" * 101, "EHEAD"),
        (1, 200, b"A: " + b"b" * 61440, "EHEAD"),
    ],
)
def test_refused(version, status, fields, name):
    rc, _ = head(b"HTTP/1.%d %d x\r\n%s\r\n" % (version, status, fields), response=True)
    assert NAMES.get(rc) == name


def test_request_only_fields_mean_nothing_in_a_response():
    fields = b"Host: a\r\nHost: b,c\r\nExpect: something\r\n"
    rc, msg = head(b"HTTP/1.1 200 OK\r\n" + fields + FIVE + b"\r\n", response=True)
    assert rc > 0 and msg is not None
    assert msg["host"] == b"" and len(msg["headers"]) == 4


@pytest.mark.parametrize(
    ("version", "connection", "close"),
    [
        (1, b"", False),
        (1, b"close", True),
        (1, b"Keep-Alive", False),
        (1, b"keep-alive, CLOSE", True),
        (0, b"", True),
        (0, b"keep-alive", False),
        (0, b"keep-alive, close", True),
    ],
)
def test_persistence(version, connection, close):
    fields = b"Connection: " + connection + b"\r\n" if connection else b""
    for line, response in ((b"HTTP/1.%d 200 x", True), (b"GET / HTTP/1.%d\r\nHost: a", False)):
        _, msg = head(line % version + b"\r\n" + fields + b"\r\n", response=response)
        assert msg is not None
        assert bool(msg["flags"] & 8) == close
        assert bool(msg["flags"] & 16) == (b"keep" in connection.lower())
