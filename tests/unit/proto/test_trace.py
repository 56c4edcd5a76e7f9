"""proto/trace: W3C traceparent as the specification's own examples have it, B3, request ids."""

from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shim.trace_shim import b3_id, begin, parse, request_id

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"
WORDS = st.integers(0, 2**64 - 1)
HEX = set("0123456789abcdef")


@pytest.mark.parametrize(
    "value",
    [
        GOOD,
        GOOD[:-2] + "00",
        GOOD[:-2] + "ff",  # flags that we do not know are passed on
        "cc-" + GOOD[3:],  # a later version reads as ours
        "cc-" + GOOD[3:] + "-what-the-future-will-be-like",
        "01-" + GOOD[3:] + "-",
    ],
)
def test_valid_traceparents(value: str):
    assert parse(value.encode()) == bytes.fromhex(TRACE)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-",
        GOOD[:-1],
        GOOD + "-",
        GOOD + "-extra",  # version 00 has nothing behind
        "cc-" + GOOD[3:] + ".what",
        "cc-" + GOOD[3:] + "0",
        "ff-" + GOOD[3:],
        "fF-" + GOOD[3:],
        "0-" + GOOD[3:],
        ".0-" + GOOD[3:],
        "0.-" + GOOD[3:],
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT.upper()}-01",
        f"00-.{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}-.{PARENT[1:]}-01",
        f"00-{TRACE}-{PARENT}-.0",
        f"00-{TRACE}-{PARENT}-0.",
        f"00_{TRACE}-{PARENT}-01",
        f"00-{TRACE}_{PARENT}-01",
        f"00-{TRACE}-{PARENT}_01",
    ],
)
def test_invalid_traceparents(value: str):
    assert parse(value.encode()) is None


@given(st.integers(0, 54), st.integers(0, 255))
def test_any_byte_that_does_not_belong_spoils_it(at: int, byte: int):
    value = bytearray(GOOD.encode())
    value[at] = byte
    text = value.decode("latin-1")
    fields = text.split("-")
    well_formed = [len(field) for field in fields] == [2, 32, 16, 2] and set("".join(fields)) <= HEX
    good = well_formed and fields[0] != "ff" and set(fields[1]) != {"0"} and set(fields[2]) != {"0"}
    assert (parse(bytes(value)) is not None) == good


@given(WORDS, WORDS, WORDS)
def test_a_trace_that_we_begin_is_valid_whatever_the_dice_say(a: int, b: int, c: int):
    value, trace = begin(a, b, c)
    assert parse(value) == trace
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", value)
    assert trace[:8] == a.to_bytes(8, "big")


def test_a_trace_from_zeros_is_valid():
    value, trace = begin(0, 0, 0)
    assert parse(value) == trace


@given(WORDS, WORDS)
def test_request_ids_are_random_uuids(a: int, b: int):
    made = uuid.UUID(request_id(a, b).decode())
    assert made.version == 4 and made.variant == uuid.RFC_4122
    kept = (a << 64 | b) & ~(0xF << 76) & ~(3 << 62)
    assert made.int & ~(0xF << 76) & ~(3 << 62) == kept, "nothing but version and variant is lost"


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        (f"X-B3-TraceId: {TRACE}\r\nX-B3-SpanId: {PARENT}\r\n", TRACE),
        (f"x-b3-traceid: {PARENT}\r\n", "0" * 16 + PARENT),
        (f"b3: {TRACE}-{PARENT}-1-{PARENT}\r\n", TRACE),
        (f"B3: {TRACE}-{PARENT}\r\n", TRACE),
        (f"b3: {PARENT}-{PARENT}-d\r\n", "0" * 16 + PARENT),
        (f"b3: {TRACE}\r\n", TRACE),
        ("b3: 0\r\n", None),
        ("b3: \r\n", None),
        ("b3: -\r\n", None),
        (f"b3: {'0' * 32}-{PARENT}\r\n", None),
        (f"x-b3-traceid: {TRACE[1:]}\r\n", None),
        (f"x-b3-traceid: {TRACE}0\r\n", None),
        (f"x-b3-traceid: g{TRACE[1:]}\r\n", None),
        ("", None),
    ],
)
def test_b3(fields: str, found: str | None):
    assert b3_id(fields.encode()) == (None if found is None else bytes.fromhex(found))
