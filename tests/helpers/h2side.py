"""One side of HTTP/2 in memory (shim.h2_shim.Side) for tests: peers of the `h2` package, frames by hand."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import hpack
from hyperframe import frame as hf
from shim.h2_shim import Side

OPEN, HALF_LOCAL, HALF_REMOTE, CLOSED = 1, 2, 3, 4
PROTOCOL, INTERNAL, FLOW, STREAM_CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION, CALM = 1, 2, 3, 5, 6, 7, 8, 9, 11
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET = [(":method", "GET"), (":scheme", "http"), (":path", "/a?b"), (":authority", "x.test")]


def client() -> h2.connection.H2Connection:
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    peer.initiate_connection()
    return peer


def server() -> h2.connection.H2Connection:
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    peer.initiate_connection()
    return peer


def swap(side: Side, peer: h2.connection.H2Connection, step: int = 0) -> list[h2.events.Event]:
    """Bytes both ways until nobody has more to say: what the peer was told. step: bytes a time, 0: all."""
    told: list[h2.events.Event] = []
    while True:
        ours, theirs = side.take(), peer.data_to_send()
        if not ours and not theirs:
            return told
        for at in range(0, len(theirs), step or len(theirs) or 1):
            assert side.receive(theirs[at : at + (step or len(theirs))]) == 0, side.failed()
        if ours:
            told += peer.receive_data(ours)


def kinds(events, kind):
    return [e for e in events if isinstance(e, kind)]


def frames(data: bytes) -> list[hf.Frame]:
    out = []
    while data:
        frame, length = hf.Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        out.append(frame)
        data = data[9 + length :]
    return out


def begun(**options) -> Side:
    """A server whose client has said its preface, or a client that knows its server's settings."""
    side = Side(**options)
    start = PREFACE if options.get("server", True) else b""
    assert side.receive(start + hf.SettingsFrame().serialize()) == 0
    side.take()
    side.events.clear()
    return side


def head(sid: int, fields, flags=("END_HEADERS", "END_STREAM")) -> bytes:
    return hf.HeadersFrame(sid, hpack.Encoder().encode(fields), flags=flags).serialize()


def raw(kind: int, flags: int, sid: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + sid.to_bytes(4, "big") + payload


def goaway_of(side: Side) -> int:
    return next(f.error_code for f in frames(side.take()) if isinstance(f, hf.GoAwayFrame))


def reset_of(side: Side) -> int:
    return next(f.error_code for f in frames(side.take()) if isinstance(f, hf.RstStreamFrame))
