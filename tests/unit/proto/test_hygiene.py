"""hygiene: what is taken off a message before it is passed on, and what may not be."""

from __future__ import annotations

import pytest

from shim import h1_shim as h1

EBAD = -20


def kept(
    fields: bytes, *, response: bool = False, keep_upgrade: bool = False, line: bytes = b""
) -> list[bytes] | int:
    """Names of the fields that are passed on."""
    line = line or (b"HTTP/1.1 200 OK" if response else b"GET / HTTP/1.1\r\nHost: a")
    data = line + b"\r\n" + fields + b"\r\n"
    rc, _, msg = h1.rewrite(data, response, keep_upgrade)
    if msg is None:
        raise AssertionError(f"refused by the parser: {rc}")
    if rc < 0:
        return rc
    return [name for name, _, _, dropped in msg["headers"] if not dropped and name != b"Host"]


def test_end_to_end_fields_stay():
    assert kept(b"Accept: */*\r\nTrailer: X\r\nX-Y: z\r\nCookie: a\r\n") == [
        b"Accept",
        b"Trailer",
        b"X-Y",
        b"Cookie",
    ]


@pytest.mark.parametrize("response", [False, True])
@pytest.mark.parametrize(
    "field",
    [
        b"Connection: x",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"TE: trailers",
        b"Transfer-Encoding: chunked",
        b"Upgrade: websocket",
        b"HTTP2-Settings: x",
    ],
)
def test_hop_by_hop_fields_go(field, response):
    assert kept(b"A: b\r\n" + field + b"\r\nC: d\r\n", response=response) == [b"A", b"C"]


def test_proxy_credentials_are_for_us():
    both = b"Proxy-Authorization: x\r\nProxy-Authenticate: y\r\n"
    assert kept(both) == [b"Proxy-Authenticate"]
    assert kept(both, response=True) == [b"Proxy-Authorization"]


def test_fields_that_connection_names_go():
    fields = b"X-One: 1\r\nx-two: 2\r\nX-Three: 3\r\n"
    fields += b"Connection: X-TWO, close\r\nConnection: ,x-one\r\nx-one: 4\r\n"
    assert kept(fields) == [b"X-Three"]
    assert kept(fields, response=True) == [b"X-Three"]


@pytest.mark.parametrize(
    "name",
    [
        b"Host",
        b"content-length",
        b"Transfer-Encoding",
        b"AUTHORIZATION",
        b"Cookie",
        b"Set-Cookie",
        b"Forwarded",
        b"X-Forwarded-For",
        b"x-forwarded-proto",
        b"X-Forwarded-Host",
        b"x-forwarded-client-cert",
    ],
)
def test_fields_that_connection_may_not_name(name):
    assert kept(b"Connection: a, " + name + b"\r\n") == EBAD
    assert kept(b"Connection: a, " + name + b"\r\n", response=True) == EBAD


def test_many_connection_options_are_refused():
    assert kept(b"Connection: " + b", ".join(b"x%d" % i for i in range(32)) + b"\r\n") == []
    assert kept(b"Connection: " + b", ".join(b"x%d" % i for i in range(33)) + b"\r\n") == EBAD
    assert kept(b"Connection: x\r\n" * 33) == EBAD


def test_upgrade_is_kept_when_asked_for():
    fields = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n"
    assert kept(fields, keep_upgrade=True) == [b"Upgrade", b"Sec-WebSocket-Key"]
    assert kept(fields) == [b"Sec-WebSocket-Key"]
    for refused in (b"h2c", b"websocket, h2c", b"HTTP/2.0", b"TLS/1.2", b"h2", b'"x"'):
        assert kept(fields.replace(b"websocket", refused), keep_upgrade=True) == [b"Sec-WebSocket-Key"]
    assert kept(b"Upgrade: websocket\r\n", keep_upgrade=True) == []
    assert kept(fields, keep_upgrade=True, line=b"GET / HTTP/1.0") == [b"Sec-WebSocket-Key"]


def test_names_that_applications_take_for_ours_go():
    fields = (
        b"X_Forwarded_For: 1\r\nX-Forwarded_For: 2\r\nContent_Length: 3\r\nX_Own: 4\r\nX-Forwarded-For: 5\r\n"
    )
    assert kept(fields) == [b"X_Own", b"X-Forwarded-For"]


def test_an_expectation_of_http_1_0_is_not_passed_on():
    assert kept(b"Expect: 100-continue\r\n") == [b"Expect"]
    assert kept(b"Expect: what\r\n", line=b"GET / HTTP/1.0") == []


@pytest.mark.parametrize(("status", "stays"), [(204, False), (103, False), (200, True), (304, True)])
def test_content_length_where_there_is_no_content(status, stays):
    line = b"HTTP/1.1 %d x" % status
    assert kept(b"Content-Length: 0\r\n", response=True, line=line) == ([b"Content-Length"] if stays else [])
