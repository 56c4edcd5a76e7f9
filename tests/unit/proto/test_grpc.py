"""proto/grpc: content types, timeouts, statuses and messages by gRPC's PROTOCOL-HTTP2 and status mapping."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shim.grpc_shim import (
    is_request,
    message,
    status_of_h2,
    status_of_http,
    status_parse,
    timeout_parse,
    timeout_write,
)

BAD = -20
NS = {"n": 1, "u": 10**3, "m": 10**6, "S": 10**9, "M": 60 * 10**9, "H": 3600 * 10**9}
MOST = 2**64 - 1
STATUSES = (
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE",
    "DATA_LOSS UNAUTHENTICATED",
)
NUMBER = {name: number for number, name in enumerate(" ".join(STATUSES).split())}
UNKNOWN = NUMBER["UNKNOWN"]


@pytest.mark.parametrize(
    ("value", "is_grpc"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc+json", True),
        ("application/grpc+", True),
        ("Application/gRPC+Proto", True),
        ("application/grpc;charset=utf-8", True),
        ("application/grpc ; charset=utf-8", True),
        ("application/grpc+proto; a=b", True),
        ("application/grpc-web", False),
        ("application/grpc-web+proto", False),
        ("application/grpc-web-text", False),
        ("application/grpcx", False),
        ("application/grpc x", False),
        ("application/grp", False),
        ("application/json", False),
        ("text/application/grpc", False),
        ("", False),
    ],
)
def test_what_is_a_grpc_request(value: str, is_grpc: bool):
    assert is_request(f"Content-Type: {value}\r\n".encode()) == is_grpc


def test_a_request_without_a_content_type_is_none():
    assert not is_request(b"")


@given(st.integers(0, 99_999_999), st.sampled_from("numSMH"))
def test_timeouts_are_read(count: int, unit: str):
    assert timeout_parse(f"{count}{unit}".encode()) == min(count * NS[unit], MOST)


@pytest.mark.parametrize(
    ("value", "ns"), [("1S", 10**9), ("00000001m", 10**6), ("99999999H", MOST), ("0n", 0)]
)
def test_timeouts_at_their_bounds(value: str, ns: int):
    assert timeout_parse(value.encode()) == ns


@pytest.mark.parametrize(
    "value",
    [
        "",
        "S",
        "1",
        "12345678",
        "123456789S",
        "-1S",
        "+1S",
        " 1S",
        "1S ",
        "1 S",
        "1s",
        "1h",
        "1U",
        "1N",
        "1.5S",
        "1SS",
        "0x1S",
        "1\0",
    ],
)
def test_bad_timeouts(value: str):
    assert timeout_parse(value.encode()) == BAD


@given(st.binary(max_size=11))
def test_whatever_comes_as_a_timeout_is_judged_by_the_grammar(value: bytes):
    good = re.fullmatch(rb"[0-9]{1,8}[HMSmun]", value)
    assert timeout_parse(value) == (min(int(value[:-1]) * NS[value[-1:].decode()], MOST) if good else BAD)


@given(st.one_of(st.integers(0, MOST), st.integers(0, 64).flatmap(lambda bits: st.integers(0, 2**bits - 1))))
def test_a_timeout_says_at_most_what_is_left_and_hardly_less(ns: int):
    text = timeout_write(ns)
    assert re.fullmatch(rb"(0|[1-9][0-9]{0,7})[HMSmun]", text)
    said = timeout_parse(text)
    finest = next(size for size in NS.values() if ns // size < 10**8)
    assert said == ns // finest * finest
    assert (said == 0) == (ns == 0)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0n"),
        (1, "1n"),
        (99_999_999, "99999999n"),
        (100_000_000, "100m"),
        (100_000_001, "100m"),
        (123_456_789, "123456u"),
        (1_500_000_000, "1500m"),
        (10**9, "1S"),
        (4_873_000_000, "4873m"),
        (99_999_999_999, "99999999u"),
        (60 * 10**9, "1M"),
        (90 * 60 * 10**9, "90M"),
        (7200 * 10**9, "2H"),
        (MOST, "5124095H"),
    ],
)
def test_timeouts_as_they_are_written(ns: int, text: str):
    assert timeout_write(ns) == text.encode()


@pytest.mark.parametrize("number", range(17))
def test_statuses_are_read(number: int):
    assert status_parse(str(number).encode()) == number


@pytest.mark.parametrize(
    "value",
    ["", "17", "99", "100", "-1", "+1", "00", "01", "1 ", " 1", "1.", "x", "1x", "OK", "4294967296", "\0"],
)
def test_a_status_that_is_none_is_unknown(value: str):
    assert status_parse(value.encode()) == UNKNOWN


# doc/http-grpc-status-mapping.md
HTTP = {
    400: "INTERNAL",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED",
    429: "UNAVAILABLE",
    431: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}
# doc/PROTOCOL-HTTP2.md, "Errors"; all other codes: INTERNAL
H2 = {7: "UNAVAILABLE", 8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}


def test_the_table_from_http_statuses():
    for status in range(600):
        assert status_of_http(status) == NUMBER[HTTP.get(status, "UNKNOWN")], status


def test_the_table_from_http2_error_codes():
    for code in [*range(20), 2**32 - 1]:
        assert status_of_h2(code) == NUMBER[H2.get(code, "INTERNAL")], code


@given(st.text().map(str.encode) | st.binary())
def test_a_message_survives_as_a_field_value(text: bytes):
    made = message(text)
    assert re.fullmatch(rb"([ -$&-~]|%[0-9A-F]{2})*", made) and made == made.strip()
    assert unquote_to_bytes(made) == text


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("", ""),
        ("no healthy upstream", "no healthy upstream"),
        ("100%", "100%25"),
        ("a\r\nb", "a%0D%0Ab"),
        ("é\x7f", "%C3%A9%7F"),
        (" ", "%20"),
    ],
)
def test_messages(text: str, made: str):
    assert message(text.encode()) == made.encode()
