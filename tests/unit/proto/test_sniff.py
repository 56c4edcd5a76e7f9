"""proto/sniff: what a connection's first bytes speak, whole and at every length."""

from __future__ import annotations

import pytest
from shim.hello_fuzz import LINE_MOST, sniff

from helpers import hellos

HTTP = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.0\r\n\r\n",
    b"CONNECT a:443 HTTP/1.1\r\n",
    b"get /x?y=%20 HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\n",  # for the HTTP codec to refuse
]
OTHER = [
    b"PING\r\n",  # Redis, inline
    b"*1\r\n$4\r\nPING\r\n",  # Redis
    b"EHLO example.com\r\n",  # SMTP
    b'CONNECT {"verbose":false}\r\n',  # NATS
    b"\0\0\0\x08\x04\xd2\x16\x2f",  # PostgreSQL's SSLRequest
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"GET  / HTTP/1.1\r\n",
    b"GET / HTPP/1.1\r\n",
    b"GET /a b HTTP/1.1\r\n",
    b" GET / HTTP/1.1\r\n",
    b"GET /\r\n",  # HTTP/0.9
    b"G\0T / HTTP/1.1\r\n",
    b"A" * 65 + b" / HTTP/1.1\r\n",
    b"GET /" + b"a" * LINE_MOST,
    b"\x16\x03\x01\x00\x05\x02",  # a handshake that a client does not begin with
    b"\x16\x02\x01",
]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        *((data, "http") for data in HTTP),
        *((data, "tls") for data in hellos.some()),
        *((data, "other") for data in OTHER),
    ],
)
def test_what_is_spoken_is_said_once(data: bytes, says: str) -> None:
    # nothing but "more" comes before it, and it stays what it is
    said = [sniff(data[:n]) for n in range(min(len(data), 600))] + [sniff(data)]
    first = next(i for i, word in enumerate(said) if word != "more")
    assert set(said[first:]) == {says}
    assert sniff(b"") == "more"


def test_http_is_known_by_its_version_alone() -> None:
    assert sniff(b"GET / HTTP") == "more"
    assert sniff(b"GET / HTTP/") == "http"
    assert sniff(b"POST /" + b"a" * (LINE_MOST - 100)) == "more"
