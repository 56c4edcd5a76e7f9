"""Calls proto/tls_hello and proto/sniff from tests and from the fuzzer. Input is allocated as long as it is, and so is the scratch."""
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastmesh._core.base.err cimport FM_AGAIN, FM_EBAD, FM_EHEAD, FM_OK
from fastmesh._core.proto.sniff cimport SNIFF_HTTP, SNIFF_MORE, SNIFF_MOST, SNIFF_OTHER, SNIFF_TLS, sniff_bytes
from fastmesh._core.proto.tls_hello cimport HELLO_MOST, HELLO_WIRE_MOST, TlsHello, tls_hello

TARGETS = ("client_hello", "sniff")
AGAIN, BAD, TOO_LARGE = FM_AGAIN, FM_EBAD, FM_EHEAD
MOST, WIRE_MOST = HELLO_MOST, HELLO_WIRE_MOST


def hello(data: bytes):
    """(name, ech), or the code."""
    cdef TlsHello h
    cdef uint32_t n = <uint32_t>len(data)
    cdef char *p = <char *>malloc(n if n else 1)
    cdef char *scratch = <char *>malloc(HELLO_MOST)
    cdef int rc
    memcpy(p, <const char *>data, n)
    rc = tls_hello(p, n, scratch, &h)
    try:
        return (h.name.p[:h.name.n] if h.name.n else b"", bool(h.ech)) if rc == FM_OK else rc
    finally:
        free(p)
        free(scratch)


SAYS = {SNIFF_MORE: "more", SNIFF_HTTP: "http", SNIFF_TLS: "tls", SNIFF_OTHER: "other"}
LINE_MOST = SNIFF_MOST


def sniff(data: bytes) -> str:
    """What the first bytes of a connection speak."""
    cdef uint32_t n = <uint32_t>len(data)
    cdef char *p = <char *>malloc(n if n else 1)
    memcpy(p, <const char *>data, n)
    try:
        return SAYS[sniff_bytes(p, n)]
    finally:
        free(p)


def run(str target, bytes data):
    """One input: its first two bytes say where it is cut, the rest is the client's. What a part of it says must hold for the whole."""
    if len(data) < 2:
        return
    rest = data[2:]
    if target == "sniff":
        part = sniff(rest[:(data[0] | data[1] << 8) % (len(rest) + 1)])
        if part != "more" and part != sniff(rest):
            raise AssertionError(f"{part}, then {sniff(rest)}")
        return
    whole = hello(rest)
    part = hello(rest[:(data[0] | data[1] << 8) % (len(rest) + 1)])
    if part in (FM_EBAD, FM_EHEAD) and whole == FM_AGAIN:
        raise AssertionError(f"refused, then not: {part}")
    if part == FM_EBAD and isinstance(whole, tuple):
        raise AssertionError("bad, then good")
    if isinstance(part, tuple) and isinstance(whole, tuple) and part != whole:
        raise AssertionError(f"{part}, then {whole}")
    if isinstance(whole, tuple) and (len(whole[0]) > 253 or b"\0" in whole[0] or b".." in whole[0]):
        raise AssertionError(f"no name: {whole}")
    if whole not in (FM_AGAIN, FM_EBAD, FM_EHEAD) and not isinstance(whole, tuple):
        raise AssertionError(f"unknown code {whole}")
