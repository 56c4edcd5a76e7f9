"""Heads of HTTP/2: where the fuzzing of frames, and of heads that change their version, starts."""

from __future__ import annotations

from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple

GET = [(":method", "GET"), (":scheme", "http"), (":path", "/a?b"), (":authority", "x.test")]
OK = (":status", "200")
CONNECT = (":method", "CONNECT")
NEVER = NeverIndexedHeaderTuple

REQUESTS: list[list[tuple[str, str] | HeaderTuple]] = [
    [*GET],
    [(":method", "POST"), *GET[1:], ("content-length", "3"), ("content-type", "a/b")],
    [*GET[:3], ("host", "x.test:80")],
    [*GET, ("host", "X.test")],
    [*GET[:3], (":authority", "[::1]:443"), ("te", "trailers")],
    [*GET, ("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "")],
    [(":method", "OPTIONS"), (":scheme", "https"), (":path", "*"), GET[3]],
    [CONNECT, (":authority", "x.test:443")],
    [CONNECT, (":protocol", "websocket"), *GET[1:]],
    [
        (":method", "PURGE"),
        (":scheme", "http"),
        NEVER(":path", "/secret"),
        NEVER(":authority", "x.test"),
        NEVER("authorization", "x"),
    ],
    [*GET, ("expect", "100-continue"), ("x_forwarded_for", "1"), ("http2-settings", "x")],
    [*GET, ("content-length", "007"), ("content-length", "7"), ("proxy-authorization", "x")],
    [*GET, ("connection", "close")],
    [*GET, ("a", "b\r\nc: d")],
    [*GET, ("expect", "x")],
]
RESPONSES: list[list[tuple[str, str] | HeaderTuple]] = [
    [OK, ("content-type", "text/plain"), ("content-length", "5")],
    [(":status", "103"), ("link", "</x>")],
    [(":status", "204"), ("content-length", "5")],
    [(":status", "304"), ("etag", "x")],
    [(":status", "500"), ("set-cookie", "a"), ("set-cookie", "b"), ("host", "x")],
    [(":status", "999")],
    [(":status", "101")],
    [OK, ("content-type", "application/grpc"), ("trailer", "grpc-status")],
    [OK, NEVER("x", "y"), ("te", "trailers")],
    [OK, ("grpc-status", "5"), ("grpc-message", "")],
    [OK, ("server", "x"), ("date", "x"), ("proxy-authenticate", "x")],
]
TRAILERS: list[list[tuple[str, str] | HeaderTuple]] = [
    [("grpc-status", "0"), ("grpc-message", "a%20b")],
    [],
    [("x-a", "1\t2"), ("x-b", "")],
    [NEVER("x", "y")],
    [("content-length", "1")],
    [("x_forwarded_for", "1")],
    [("a", "b"), ("a", "c"), ("a", "b")],
    [(":path", "/")],
    [("X", "y")],
    [("a", " b")],
    [("grpc-status-details-bin", "CAUSEWJhZA")],
]


def blocks(heads: list[list[tuple[str, str] | HeaderTuple]]) -> list[bytes]:
    """Each head with and without Huffman's code, as the first of a connection and as the second."""
    made = []
    for head in heads:
        for huffman in (False, True):
            coder = Encoder()
            made += [coder.encode(head, huffman=huffman), coder.encode(head, huffman=huffman)]
    return list(dict.fromkeys(made))
