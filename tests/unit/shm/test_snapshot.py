"""shm/snapshot: what snap_check takes can be read without a bounds check (tried before a guard page)."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from shim.policy_shim import Balancer, Request, Router
from shim.shm_shim import Frozen, WorkerView, checksum

from fastmesh._core.shm.pack import Packer
from fastmesh._core.shm.segment import CL_CELLS, EP_CELLS, Segment
from helpers.irconf import cluster, config, packed, route, vhost

HEADER = 256
TAIL = 64  # zeros behind the last string
SECTIONS = (
    "listeners",
    "tables",
    "vhosts",
    "routes",
    "conds",
    "actions",
    "dests",
    "hdrops",
    "clusters",
    "endpoints",
    "tls",
    "strs",
    "u32s",
    "regexes",
)


def rich() -> dict[str, Any]:
    """A config that has something in every section."""
    ops = {"remove": ["x-gone"], "set": [["x-set", "1"]], "add": [["x-add", "a b"]]}
    conds = [
        {"on": "header", "op": "regex", "name": "x-a", "value": "a.*"},
        {"on": "query", "op": "exact", "name": "q", "value": "1"},
        {"on": "method", "op": "exact", "value": "GET", "negate": True},
        {"on": "port", "op": "exact", "number": 80},
    ]
    dests = [
        {"cluster": "c1", "weight": 95, "request_headers": ops},
        {"cluster": "c2", "weight": 5, "response_headers": ops},
        {"cluster": "gone", "weight": 1},
    ]
    return config(
        vhost(["*"], route("any", to="c3")),
        vhost(
            ["a.com", "a.com:80", "*.a.com", "*.x.a.com:80"],
            route("cond", conds=conds, dests=dests, request_headers=ops, timeout_ms=5),
            route(
                "re",
                path={"op": "regex", "value": "/r[0-9]+"},
                to="c2",
                rewrite={"path": "/x", "authority": "h"},
            ),
            route(
                "pre", path={"op": "path_prefix", "value": "/p"}, redirect={"prefix": "/q", "scheme": "https"}
            ),
            route("d", path={"op": "exact", "value": "/d"}, direct={"status": 200, "body": b"hello"}),
            route("rest", to="c1", retries={"attempts": 2, "retry_on": ["5xx", "reset"]}),
        ),
        clusters=[
            cluster("c1", 1, 2, 3, lb="ROUND_ROBIN", weights=(1, 2, 3), service="s"),
            cluster(
                "c2",
                4,
                5,
                lb="LEAST_REQUEST",
                tls={"context": "id", "sni": "sni", "sans": ["spiffe://d/a", "b"]},
            ),
            cluster("c3", 6, 7, 8, lb="RANDOM", weights=(9, 1, 1)),
            cluster("empty"),
        ],
        listeners=[
            {
                "name": "in",
                "kind": "inbound",
                "address": "::",
                "port": 1,
                "table": "main",
                "tls_mode": "strict",
                "tls": ["id", "second"],
            },
            {"name": "out", "kind": "outbound", "address": "::", "port": 2, "table": "main"},
        ],
        tls=[
            {
                "name": name,
                "server": True,
                "cert": b"PEM",
                "key": b"KEY",
                "ca": b"CA",
                "alpn": ["http/1.1", "h2"],
                "hosts": ["a.com", "*.b.com"],
                "verify": True,
                "trust_domain": "d",
            }
            for name in ("id", "second")
        ],
        cluster="service",
    )


def resealed(data: bytearray) -> bytes:
    struct.pack_into("<Q", data, 24, checksum(bytes(data)))
    return bytes(data)


def section(data: bytes | bytearray, name: str) -> tuple[int, int]:
    """(offset, count) of a section."""
    return struct.unpack_from("<II", data, 32 + 8 * SECTIONS.index(name))


def changed(name: str, at: int, form: str, *values: int) -> bytes:
    """The rich snapshot with a field of the first element of a section overwritten."""
    data = bytearray(packed(rich()))
    struct.pack_into(form, data, section(data, name)[0] + at, *values)
    return resealed(data)


REQUESTS = [
    {
        "host": host,
        "path": path,
        "query": b"q=1&a",
        "headers": [(b"x-a", b"abc"), (b"x-a", b"d"), (b"cookie", b"c")],
    }
    for host in (b"", b"a.com", b"a.com:80", b"q.a.com", b"x.x.a.com:80")
    for path in (b"/", b"/r12", b"/p/q", b"/d", b"*")
]


class Readers:
    """Runs every reader of a snapshot over bytes that snap_check took."""

    def __init__(self) -> None:
        self.worker = WorkerView(Segment.create(2), 0)
        self.requests = [Request(**r) for r in REQUESTS] + [Request(method=b"POST", host=b"a.com")]

    def run(self, frozen: Frozen) -> None:
        router = Router(frozen)
        router.load()
        for table in range(2):
            for request in self.requests:
                for rnd in (0, 2**31, 2**32 - 1):
                    router.match(request, table=table, rnd=rnd)
        balancer = Balancer(frozen, self.worker)
        for _ in range(4):
            balancer.pick_all()
        for name in ("c1", "c2", "c3", "empty", "none"):
            frozen.cluster(name)
        for name in ("in", "out", "none"):
            frozen.listener(name)


def test_the_rich_snapshot_is_taken_and_uses_every_section():
    data = packed(rich())
    frozen = Frozen(data)
    assert frozen.check() is None
    assert all(section(data, name)[1] for name in SECTIONS)
    Readers().run(frozen)
    assert frozen.cluster("c2") == "c2" and frozen.cluster("c9") is None
    assert frozen.listener("in") == {
        "kind": 2,
        "tls_mode": 1,
        "port": 1,
        "flags": 0,
        "table": 0,
        "tls": [0, 1],
    }
    assert frozen.listener("none") is None


@pytest.mark.parametrize("seed", range(6))
def test_changed_bytes_are_refused_or_harmless(seed):
    """The checksum fits each time: it must not be what saves the readers."""
    rnd = random.Random(seed)
    readers = Readers()
    data = packed(rich())
    # everything in front of the strings is structure; most changes go there
    strings = section(data, "regexes")[0] + 8 * section(data, "regexes")[1]
    values = [
        0,
        1,
        2,
        255,
        256,
        0xFFFF,
        0x7FFFFFFF,
        0x80000000,
        0xFFFFFFFF,
        len(data),
        len(data) - 8,
        HEADER,
        EP_CELLS,
    ]
    taken = 0
    for _ in range(2500):
        made = bytearray(data)
        for _ in range(rnd.choice((1, 1, 1, 2, 4))):
            at = rnd.randrange(32, strings if rnd.random() < 0.9 else len(data) - 8)
            how = rnd.randrange(4)
            if how == 0:
                made[at] ^= 1 << rnd.randrange(8)
            elif how == 1:
                made[at] = rnd.randrange(256)
            elif how == 2:
                struct.pack_into("<I", made, at & ~3, rnd.choice(values))
            else:
                old = struct.unpack_from("<I", made, at & ~3)[0]
                struct.pack_into(
                    "<I", made, at & ~3, (old + rnd.choice((-24, -8, -1, 1, 8, 24, 64))) & 0xFFFFFFFF
                )
        frozen = Frozen(resealed(made))
        if frozen.check() is None:
            taken += 1
            readers.run(frozen)
    assert taken > 50  # reserved bytes and weights may be anything: the readers did run


def test_every_length_but_the_right_one_is_refused():
    data = packed(rich())
    strings_end = len(data) - TAIL - 8
    for n in [*range(0, 400), *range(400, strings_end, 37)]:
        cut = bytearray(data[: n & ~7])
        if len(cut) >= HEADER:
            struct.pack_into("<Q", cut, 16, len(cut))
            cut = bytearray(resealed(cut))
        assert Frozen(bytes(cut)).check() is not None


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        (("clusters", 0, "<Q", 1), ("clusters", "id is not that of the name")),
        (("clusters", 32, "<I", 9999), ("clusters", "weights do not add up")),
        (("clusters", 36, "<B", 6), ("clusters", "load balancing or flag unknown")),
        (("clusters", 36, "<B", 4), ("clusters", "hash unknown, or of no use")),
        (("clusters", 96, "<I", CL_CELLS), ("clusters", "no such cell")),
        (("clusters", 112, "<I", 1_000_001), ("clusters", "more than 100 percent")),
        (("clusters", 188, "<B", 1), ("clusters", "hash unknown, or of no use")),
        (("actions", 100, "<II", 8, 9), ("actions", "retry statuses out of bounds")),
        (("actions", 108, "<II", 9, 8), ("actions", "back-off or flag out of range")),
        (("actions", 120, "<I", 1_000_001), ("actions", "fault out of range")),
        (("actions", 136, "<I", 999), ("actions", "no such pattern")),
        (("endpoints", 0, "<B", 5), ("endpoints", "address family, flag or cell unknown")),
        (("endpoints", 4, "<I", EP_CELLS), ("endpoints", "address family, flag or cell unknown")),
        (("endpoints", 24, "<I", 0), ("endpoints", "weight out of range")),
        (("endpoints", 28, "<I", 7), ("clusters", "weights are not cumulative")),
        (("dests", 0, "<I", 4), ("dests", "no such cluster")),
        (("dests", 36, "<I", 200), ("actions", "weights are not cumulative")),
        (("actions", 0, "<B", 3), ("actions", "kind, rewrite or retry condition unknown")),
        (("routes", 0, "<B", 7), ("routes", "path operator unknown")),
        (("routes", 0, "<B", 5), ("routes", "path operator unknown")),
        (("routes", 0, "<B", 4), ("routes", "no such pattern")),
        (("routes", 24, "<I", 99), ("routes", "no such action")),
        (("routes", 16, "<II", 300, 2), ("routes", "conditions or strings out of bounds")),
        (("conds", 0, "<B", 6), ("conds", "not a list of networks")),
        (("conds", 0, "<B", 7), ("conds", "condition unknown")),
        (("conds", 4, "<I", 99), ("conds", "no such pattern")),
        (("vhosts", 8, "<II", 0xFFFFFFF8, 0xFFFFFFFF), ("vhosts", "routes out of bounds")),
        (("tables", 8, "<I", 3), ("tables", "buckets are no power of two")),
        (("tables", 8, "<I", 1 << 31), ("tables", "buckets out of bounds")),
        (("tables", 12, "<I", 8), ("tables", "buckets out of bounds")),
        (("tables", 16, "<I", 77), ("tables", "no such virtual host")),
        (("tables", 20, "<I", 129), ("tables", "too many labels")),
        (("listeners", 24, "<I", 5), ("listeners", "no such route table")),
        (("listeners", 28, "<II", 0, 0), ("listeners", "TLS without a certificate")),
        (("tls", 12, "<I", 0x0301), ("tls", "flag or version unknown")),
        (("strs", 0, "<II", 8, 0xFFFFFFFF), ("strs", "string out of bounds")),
        (("regexes", 0, "<II", 0xFFFFFFFF, 1), ("regexes", "pattern out of bounds")),
        (("u32s", 0, "<I", 9), ("listeners", "no such TLS context")),
        (("hdrops", 0, "<B", 3), ("hdrops", "operation unknown")),
    ],
)
def test_a_field_out_of_bounds_is_named(bad, where):
    found = Frozen(changed(*bad)).check()
    assert (found[0], found[2]) == where


def test_an_endpoint_with_tls_needs_a_context():
    data = bytearray(packed(config()))
    data[section(data, "endpoints")[0] + 1] = 1
    assert Frozen(resealed(data)).check() == ("clusters", 0, "an endpoint with TLS, but no TLS context")


def test_a_section_that_overflows_is_refused():
    for at in range(32, 32 + 8 * len(SECTIONS), 8):
        for off, n in (
            (0xFFFFFFF8, 0xFFFFFFFF),
            (HEADER, 0xFFFFFFFF),
            (HEADER, 1 << 26),
            (8, 1),
            (HEADER + 1, 1),
        ):
            data = bytearray(packed(rich()))
            struct.pack_into("<II", data, at, off, n)
            assert Frozen(resealed(data)).check() is not None


def test_a_full_host_table_is_refused():
    """A look-up in it would not end."""
    data = bytearray(packed(rich()))
    table = section(data, "tables")[0]
    buckets, hosts = struct.unpack_from("<II", data, table + 8)
    used = next(data[at : at + 24] for at in range(hosts, hosts + 24 * buckets, 24) if any(data[at : at + 8]))
    for at in range(hosts, hosts + 24 * buckets, 24):
        data[at : at + 24] = used
    assert Frozen(resealed(data)).check() == ("tables", 0, "no empty bucket")


@pytest.mark.parametrize("name", ["", "x a", "x:", "x\r", "\0", "é", "x" * 257])
def test_a_header_name_that_is_none_is_refused(name):
    packer = Packer()
    packer.hdr_op(0, 0, name, "1")
    found = Frozen(packer.finish("", "")).check()
    assert found == ("hdrops", 0, "not a valid field name or value")


@pytest.mark.parametrize("text", ["a\r\nx-b: 1", "\n", "\0", "\x7f", "x" * 8193])
def test_config_cannot_write_lines_into_the_wire_format(text):
    packer = Packer()
    packer.hdr_op(0, 0, "x-a", text)
    assert Frozen(packer.finish("", "")).check()[0] == "hdrops"
    for field in ("redirect_host", "redirect_path", "redirect_scheme", "rewrite_path", "rewrite_host"):
        packer = Packer()
        packer.action(1, status=301, **{field: text})
        assert Frozen(packer.finish("", "")).check()[0] == "actions"
        packer = Packer()
        packer.action(1, status=301, **{field: "/a"})
        assert Frozen(packer.finish("", "")).check() is None
