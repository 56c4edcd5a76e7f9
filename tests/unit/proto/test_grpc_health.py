"""proto/grpc_health: the messages of grpc.health.v1, against protobuf's encoding written out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shim.health_shim import grpc_request, grpc_status

EBAD = -20


def message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


def varint(n: int) -> bytes:
    out = b""
    while n >= 128:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


@pytest.mark.parametrize("service", [b"", b"a", b"mesh.Test", b"x" * 127, b"x" * 128, b"x" * 256])
def test_a_request_is_the_services_name(service: bytes) -> None:
    field = b"\x0a" + varint(len(service)) + service if service else b""
    assert grpc_request(service) == message(field)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (message(b""), 0),
        (message(b"\x08\x00"), 0),
        (message(b"\x08\x01"), 1),
        (message(b"\x08\x02"), 2),
        (message(b"\x08\x03"), 3),
        (message(b"\x08\x81\x00"), 1),  # longer than it need be
        (message(b"\x08\x02\x08\x01"), 1),  # the last one counts
        # fields that are not known yet, of every wire type
        (message(b"\x10\x05\x08\x01"), 1),
        (message(b"\x11" + b"x" * 8 + b"\x08\x01"), 1),
        (message(b"\x12\x03abc\x08\x01"), 1),
        (message(b"\x15" + b"x" * 4 + b"\x08\x01"), 1),
        (message(b"\x08" + b"\xff" * 9 + b"\x01"), 0),
        # no whole message, more than one, or compressed
        (b"", EBAD),
        (b"\0\0\0\0", EBAD),
        (message(b"\x08\x01")[:-1], EBAD),
        (message(b"\x08\x01") + b"\0", EBAD),
        (message(b"\x08\x01") * 2, EBAD),
        (b"\x01" + message(b"\x08\x01")[1:], EBAD),
        # not protobuf
        (message(b"\x08"), EBAD),
        (message(b"\x08" + b"\xff" * 10), EBAD),
        (message(b"\x12\x09abc"), EBAD),
        (message(b"\x11abc"), EBAD),
        (message(b"\x0b"), EBAD),
        (message(b"\x12" + b"\xff" * 9 + b"\x01"), EBAD),
    ],
)
def test_answers(body: bytes, status: int) -> None:
    assert grpc_status(body) == status


@given(st.binary(max_size=64))
def test_any_bytes(body: bytes) -> None:
    for each in (body, message(body)):
        assert grpc_status(each) == EBAD or 0 <= grpc_status(each) < 1 << 16
