"""shm/check*: what a snapshot must not say, however it came about. tests/fuzz/test_snapshots.py tries what
nobody thought of."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from shim.shm_shim import Frozen, checksum

from fastmesh._core.shm.pack import NONE, Packer
from fastmesh._core.shm.segment import SnapshotError
from helpers import snapfields
from helpers.irconf import cluster, config, packed, route, vhost

OPS_MOST = 128


def sealed(data: bytearray) -> bytes:
    struct.pack_into("<Q", data, 24, checksum(bytes(data)))
    return bytes(data)


def small() -> dict[str, Any]:
    return config(vhost(["a.com"], route(request_headers={"set": [["x-a", "1"]]})))


def test_sections_share_no_byte() -> None:
    """explain gives each destination all the weight in turn, in its copy: were the destinations something
    else, too, they would no longer be what was checked."""
    data = bytearray(packed(small()))
    actions = snapfields.section(data, "actions")[0]
    fields = {f.name: f.at for f in snapfields.STRUCTS["SnapHeader"][1]}
    struct.pack_into("<II", data, fields["hdrops.off"], actions, 1)
    assert Frozen(sealed(data)).check() == ("hdrops", 0, "section out of bounds")


def test_the_hosts_of_a_table_are_nothing_else() -> None:
    data = bytearray(packed(small()))
    table = snapfields.section(data, "tables")[0]
    clusters = snapfields.section(data, "clusters")[0]
    struct.pack_into("<II", data, table + 8, 1, clusters)
    assert Frozen(sealed(data)).check() == ("tables", 0, "buckets that are something else, too")


@pytest.mark.parametrize("what", ["request_ops", "response_ops"])
@pytest.mark.parametrize("n", [OPS_MOST, OPS_MOST + 1])
def test_header_operations_are_bounded(what: str, n: int) -> None:
    """An exchange keeps a copy, whose size is counted in 32 bits: half a million of 8 KiB each are more."""
    for where in ("actions", "dests"):
        packer = Packer()
        ops = {what: (packer.hdr_op(0, 0, "x-a", "1"), 1)}
        for _ in range(n - 1):
            packer.hdr_op(0, 0, "x-a", "1")
        ops = {what: (0, n)}
        if where == "actions":
            packer.action(2, status=200, **ops)
        else:
            packer.dest(cluster=NONE, weight=1, **ops)
        found = Frozen(packer.finish("", "")).check()
        if n <= OPS_MOST:
            assert found is None
        else:
            assert found == (where, 0, "header operations out of bounds, or too many")


@pytest.mark.parametrize("op", ["set", "add", "remove"])
def test_too_many_header_operations_are_refused_with_their_path(op: str) -> None:
    names = [f"x-{i}" for i in range(OPS_MOST + 1)]
    ops = {op: names if op == "remove" else [[name, "1"] for name in names]}
    with pytest.raises(SnapshotError, match=r"virtual_hosts\[0\].routes\[0\].request_headers: more than 128"):
        packed(config(vhost(["a.com"], route(request_headers=ops))))


@pytest.mark.parametrize(
    ("name", "hid", "good"),
    [
        ("host", 1, True),
        ("Content-Length", 2, True),
        ("transfer-encoding", 3, True),
        ("connection", 4, True),
        ("x-a", 0, True),
        ("cookie", 27, True),
        ("host", 0, False),
        ("HOST", 27, False),
        ("content-length", 0, False),
        ("Transfer-Encoding", 2, False),
        ("connection", 3, False),
        ("x-a", 1, False),
        ("x-b", 4, False),
    ],
)
def test_a_field_of_the_framing_has_its_id(name: str, hid: int, good: bool) -> None:
    """By the id the proxy sees that it must leave the field alone: under another, config could smuggle."""
    packer = Packer()
    packer.hdr_op(0, hid, name, "1")
    found = Frozen(packer.finish("", "")).check()
    assert found == (None if good else ("hdrops", 0, "a field of the framing under another id"))


@pytest.mark.parametrize("text", ["a\r\nx-b: 1", "a b", "\0", "x" * 260])
def test_what_becomes_a_host_ends_no_line(text: str) -> None:
    """A request without one gets the service's name or an endpoint's address; a check the cluster's."""
    found = Frozen(packed(config(vhost(["a"], route()), clusters=[cluster("c", 1, service=text)]))).check()
    assert found and found[0] == "clusters"
    if len(text) < 200:
        found = Frozen(packed(config(vhost(["a"], route()), clusters=[cluster(text, 1)]))).check()
        assert found and found[0] == "clusters"
    packer = Packer()
    packer.endpoint(
        family=4, addr=b"\0" * 4, port=1, flags=0, cell=0, weight=1, text=text, workload="", tag=0
    )
    found = Frozen(packer.finish("", "")).check()
    assert found and found[0] == "endpoints"


def test_the_check_ends_soon() -> None:
    """20,000 actions that all point to the same 20,000 destinations: 400 million steps in four megabytes."""
    n = 20_000
    packer = Packer()
    for i in range(n):
        packer.dest(cluster=NONE, weight=i + 1)
    for _ in range(n):
        packer.action(0, dests=(0, n), total_weight=n)
    found = Frozen(packer.finish("", "")).check()
    assert found and (found[0], found[2]) == ("actions", "too much to look at")


def test_what_is_shared_in_reason_is_taken() -> None:
    """5,000 routes of one long path, told apart by a header."""
    path = {"op": "prefix", "value": "/" + "long/" * 200}
    routes = [
        route(f"r{i}", path=path, conds=[{"on": "header", "op": "exact", "name": "x-a", "value": str(i)}])
        for i in range(5000)
    ]
    assert Frozen(packed(config(vhost(["a.com"], *routes)))).check() is None
