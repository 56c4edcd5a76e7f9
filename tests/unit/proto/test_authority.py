"""authority: what may stand in Host, and what is passed on of it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shim import h1_shim as h1

EHOST = -26


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b"a", b"a"),
        (b"example.com", b"example.com"),
        (b"example.com.", b"example.com."),
        (b"EXAMPLE.com:80", b"EXAMPLE.com:80"),
        (b"a:0", b"a:0"),
        (b"a:65535", b"a:65535"),
        (b"a:00080", b"a:00080"),
        (b"a:", b"a"),
        (b"127.0.0.1:8080", b"127.0.0.1:8080"),
        (b"a_b~c-d", b"a_b~c-d"),
        (b"[::]", b"[::]"),
        (b"[::1]:", b"[::1]"),
        (b"[2001:DB8::1]:443", b"[2001:DB8::1]:443"),
        (b"[1:2:3:4:5:6:7:8]", b"[1:2:3:4:5:6:7:8]"),
        (b"[::ffff:192.0.2.1]", b"[::ffff:192.0.2.1]"),
        (b"[1:2:3:4:5:6:192.0.2.1]", b"[1:2:3:4:5:6:192.0.2.1]"),
        (b"x" * 255, b"x" * 255),
    ],
)
def test_accepted(value, kept):
    assert h1.authority(value) == (0, kept)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b":",
        b":80",
        b"a:b",
        b"a:80:80",
        b"a:65536",
        b"a:100000",
        b"a:000080",
        b"a:-1",
        b"a:+1",
        b"a: 80",
        b"a b",
        b"a,b",
        b"a/b",
        b"a\\b",
        b"a?b",
        b"a#b",
        b"u@a",
        b"u:p@a",
        b"a%41",
        b"a;b",
        b"a=b",
        b"a&b",
        b"a'b",
        b"a*b",
        b"*",
        b"a!b",
        b"a(b)",
        b"a\x00b",
        b"\xc3\xa4",
        b"a\x7f",
        b"a\t",
        b" a",
        b"a ",
        b"x" * 256,
        b"[",
        b"]",
        b"[]",
        b"[:]",
        b"[:::]",
        b"[::1",
        b"::1",
        b"[::1]x",
        b"[::1]80",
        b"[::1]:x",
        b"[[::1]]",
        b"[1:2:3:4:5:6:7]",
        b"[1:2:3:4:5:6:7:8:9]",
        b"[1::2::3]",
        b"[1:2:3:4:5:6:7::8]",
        b"[12345::]",
        b"[g::]",
        b"[::1%25eth0]",
        b"[fe80::1%eth0]",
        b"[v1.x]",
        b"[1.2.3.4]",
        b"[::1.2.3]",
        b"[::1.2.3.256]",
        b"[::01.2.3.4]",
        b"[::1.2.3.4:5]",
        b"[1:]",
        b"[:1::]",
        b"[1:2:3:4:5:6:7:1.2.3.4]",
    ],
)
def test_refused(value):
    assert h1.authority(value)[0] == EHOST


@given(st.text("0123456789abcdefF:.", max_size=42))
@example("1:2:3:4:5:6:7::")
@example("::2:3:4:5:6:7:8")
@example("1:2::3:4:5:6:1.2.3.4")
def test_ipv6_agrees_with_the_standard_library(text):
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        expected = EHOST
    else:
        # "::" must stand for two groups at least by RFC 5952, for one by RFC 4291: both are taken
        expected = 0 if address is not None else EHOST
    assert h1.authority(b"[" + text.encode() + b"]")[0] == expected


@given(st.ip_addresses(v=6), st.integers(0, 65535))
def test_every_ipv6_address_is_taken(address, port):
    for text in (str(address), address.exploded):
        value = f"[{text}]:{port}".encode()
        assert h1.authority(value) == (0, value)
