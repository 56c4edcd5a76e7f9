"""proto/tls_hello: names out of ClientHellos, beside OpenSSL's server; what is malformed is refused."""

from __future__ import annotations

import random

import pytest
from shim.hello_fuzz import AGAIN, BAD, MOST, TOO_LARGE, WIRE_MOST, hello

from helpers import hellos
from helpers.hellos import message, record

MUTATIONS = 10_000


def ext(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data


def sized(data: bytes, width: int) -> bytes:
    return len(data).to_bytes(width, "big") + data


def sni(name: bytes, kind: int = 0) -> bytes:
    return ext(0, sized(bytes([kind]) + sized(name, 2), 2))


def build(
    *extensions: bytes, version: bytes = b"\3\3", session: bytes = b"", suites: bytes = b"\x13\1",
    compression: bytes = b"\0", more: bytes = b"",
) -> bytes:  # fmt: skip
    body = version + bytes(32) + sized(session, 1) + sized(suites, 2) + sized(compression, 1)
    if extensions:
        body += sized(b"".join(extensions), 2)
    return b"\1" + sized(body + more, 3)


@pytest.mark.parametrize("at", range(len(hellos.some())))
def test_openssls_at_every_length(at: int) -> None:
    data = hellos.some()[at]
    whole = hello(data)
    assert isinstance(whole, tuple)
    for n in range(len(data)):
        assert hello(data[:n]) == AGAIN, n
    name = hellos.openssl(data)
    assert whole == ((name or "").encode(), False)  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 50, 16384])
def test_any_cut_into_records_says_the_same(size: int) -> None:
    data = record(build(sni(b"one.example")), size)
    assert hello(data) == (b"one.example", False)


def test_no_extensions_and_none_of_ours() -> None:
    assert hello(record(build())) == (b"", False)
    assert hello(record(build(ext(43, b"\2\3\4")))) == (b"", False)


def test_encrypted_client_hello_shows_the_outer_name() -> None:
    assert hello(record(build(sni(b"public.example"), ext(0xFE0D, b"\0" * 40)))) == (b"public.example", True)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x02\x01\x00\x05hello",
        b"\x16\x03\x05\x00\x05hello",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x40\x01",
        b"\x15\x03\x01\x00\x02\x01\x00",
        record(b"\2" + build(sni(b"a"))[1:]),  # a ServerHello
        record(build(sni(b"a")) + b"\0"),  # more behind it
        record(build(sni(b"a")) + build(sni(b"b"))),
        record(build(sni(b"a"), version=b"\3\0")),
        record(build(sni(b"a"), version=b"\3\4")),
        record(build(sni(b"a"), session=bytes(33))),
        record(build(sni(b"a"), suites=b"")),
        record(build(sni(b"a"), suites=b"\x13\1\0")),
        record(build(sni(b"a"), compression=b"")),
        record(build(sni(b"a"), more=b"x")),
        record(build(sni(b"a"), sni(b"b"))),
        record(build(sni(b"a"), ext(10, b""), ext(10, b""))),
        record(build(sni(b""))),
        record(build(sni(b"a", kind=1))),
        record(build(ext(0, b""))),
        record(build(ext(0, sized(b"\0" + sized(b"a", 2) + b"\0" + sized(b"b", 2), 2)))),
        record(build(ext(0, sized(b"\0" + sized(b"a", 2), 2) + b"x"))),
        record(build(sni(b"a\0b"))),
        record(build(sni(b"a.example."))),
        record(build(sni(b".example"))),
        record(build(sni(b"a..example"))),
        record(build(sni(b"a b"))),
        record(build(sni(b"*.example"))),
        record(build(sni(b"m" * 254))),
        record(build(sni("ä".encode()))),
        record(build(b"\0\0\0\x20abc")),
        # the second record is of another kind
        record(build(sni(b"one.example"))[:20]) + b"\x17\x03\x03\x00\x01x",
    ],
    ids=range(33),
)
def test_what_is_malformed_is_refused(data: bytes) -> None:
    assert hello(data) == BAD


def test_limits() -> None:
    def pad(n: int) -> bytes:
        return ext(21, bytes(n))

    whole = build(sni(b"a"), pad(MOST - len(build(sni(b"a"), pad(0)))))
    assert len(whole) == MOST and hello(record(whole)) == (b"a", False)
    assert hello(record(build(sni(b"a"), pad(MOST)))) == TOO_LARGE
    assert hello(b"\x16\x03\x01\x00\x04\1\xff\xff\xff") == TOO_LARGE
    assert hello(record(build(sni(b"a"), *(ext(1000 + i, b"") for i in range(127))))) == (b"a", False)
    assert hello(record(build(sni(b"a"), *(ext(1000 + i, b"") for i in range(128))))) == TOO_LARGE
    # as many records as it likes, but not more bytes of them than that
    many = record(whole, 1)
    assert hello(many[:WIRE_MOST]) == TOO_LARGE and hello(many[: WIRE_MOST - 1]) == AGAIN


# Python cannot decode some names, which OpenSSL takes and we do not
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_mutations_beside_openssl() -> None:
    """Where both take it they take the same name; what we take, OpenSSL does not read otherwise."""
    source = random.Random("hello")
    seeds = hellos.some()
    outcomes = {"same": 0, "refused by both": 0, "refused here": 0, "refused there": 0, "waits": 0}
    for _ in range(MUTATIONS):
        data = bytearray(source.choice(seeds))
        for _ in range(source.randint(1, 3)):
            at = source.randrange(len(data))
            match source.randrange(3):
                case 0:
                    data[at] ^= 1 << source.randrange(8)
                case 1:
                    data[at] = source.choice(b"\0\1\2\3\x16\xff.a")
                case _:
                    del data[at : at + source.randint(1, 4)]
        ours, theirs = hello(bytes(data)), hellos.openssl(bytes(data))
        if ours == AGAIN or theirs is True:
            outcomes["waits"] += 1
            # what waits for more here has not been answered there
            assert ours != AGAIN or theirs in (True, False), data.hex()
        elif isinstance(ours, tuple):
            if theirs is False:
                outcomes["refused there"] += 1
            else:
                outcomes["same"] += 1
                assert ours[0].decode() == (theirs or ""), data.hex()
        elif theirs is False:
            outcomes["refused by both"] += 1
        else:
            outcomes["refused here"] += 1
    assert outcomes["same"] > 500 and outcomes["refused by both"] > 500, outcomes


def test_the_helper_cuts_as_it_says() -> None:
    data = hellos.made()
    assert record(message(data)) == data
