"""msg: names by number, and lookups in a head."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.cysource import CORE
from shim import h1_shim as h1

PXD = (Path(CORE) / "proto/msg.pxd").read_text()


def members(prefix: str) -> list[str]:
    return re.findall(rf"^    ({prefix}[A-Z0-9_]+)\b", PXD, re.M)


HEADERS = {
    name[2:].lower().replace("_", "-").encode(): number
    for number, name in enumerate(members("H_"))
    if name not in ("H_NONE", "H_N")
}
METHODS = {name[2:].encode(): number for number, name in enumerate(members("M_")) if name != "M_OTHER"}


@pytest.mark.parametrize("name", HEADERS)
def test_header_names_in_any_case(name):
    for spelled in (name, name.upper(), name.title(), name.swapcase()):
        assert h1.header_id(spelled) == HEADERS[name]
        assert h1.header_id(spelled.replace(b"-", b"_"), loose=True) == HEADERS[name]
    assert h1.header_id(name + b"_", loose=True) == 0


@pytest.mark.parametrize("name", HEADERS)
def test_one_other_byte_is_another_name(name):
    for i in range(len(name)):
        for byte in range(256):
            other = name[:i] + bytes([byte]) + name[i + 1 :]
            assert h1.header_id(other) == HEADERS.get(other.lower(), 0)
        assert h1.header_id(name[:i]) == HEADERS.get(name[:i], 0)
    assert h1.header_id(name + b"s") == 0


@given(st.binary(max_size=40))
def test_other_header_names(name):
    assert h1.header_id(name) == HEADERS.get(name.lower(), 0)


def test_methods_are_case_sensitive():
    for name, number in METHODS.items():
        assert h1.method_number(name) == number
        for other in (name.lower(), name + b"S", name[:-1], b"X" + name[1:]):
            assert h1.method_number(other) == METHODS.get(other, 0)
    assert h1.method_number(b"") == 0


def test_find_skips_what_is_dropped():
    data = (
        b"GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a: 2\r\nUser-Agent: first\r\n"
        b"User-Agent: second\r\nKeep-Alive: 5\r\n\r\n"
    )
    assert h1.find(data, HEADERS[b"user-agent"], b"X-a") == (b"first", b"1")
    assert h1.find(data, HEADERS[b"keep-alive"], b"keep-alive") == (None, None)
    named = data.replace(b"Keep-Alive: 5", b"Connection: X-A")
    assert h1.find(named, HEADERS[b"cookie"], b"x-a") == (None, None)
