"""shm: levels of endpoints in a snapshot: how they are packed, and that nothing malformed is taken."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from shim.policy_shim import Balancer
from shim.shm_shim import Frozen, WorkerView

from fastmesh._core.shm.pack import Packer
from fastmesh._core.shm.segment import Segment, SnapshotError
from helpers.irconf import cluster, config, packed
from unit.shm.test_snapshot import resealed, section

LEVELS_AT = 32 + 8 * 18  # SnapHeader.levels
HASH = {"on": "source", "size": 17}


def leveled(*levels: int, **more: Any) -> dict[str, Any]:
    """A cluster "c" whose endpoints have these levels."""
    made = cluster("c", *range(1, len(levels) + 1), **more)
    for endpoint, level in zip(made["endpoints"], levels, strict=True):
        endpoint["level"] = level
    return made


def levels_of(data: bytes) -> list[tuple[int, ...]]:
    """(first, n, total weight, stride, share) of each."""
    off, n = struct.unpack_from("<II", data, LEVELS_AT)
    return [struct.unpack_from("<5I", data, off + 32 * i) for i in range(n)]


def test_endpoints_are_packed_level_by_level() -> None:
    data = packed(config(clusters=[leveled(2, 0, 1, 0, weights=(1, 2, 5, 4))]))
    assert Frozen(data).check() is None
    assert [(first, n, total) for first, n, total, *_ in levels_of(data)] == [(0, 2, 6), (2, 1, 5), (3, 1, 1)]
    balancer = Balancer(Frozen(data), WorkerView(Segment.create(1), 0))
    assert [int(text.rpartition(":")[2]) for text in balancer.cells("c")] == [2, 4, 3, 1]


@pytest.mark.parametrize(
    ("made", "n"),
    [
        (leveled(0, 0, 0), 0),
        (leveled(3, 3), 0),  # one level, whichever
        (leveled(0, 1, weights=(1, 0)), 0),  # an endpoint without weight is none
        (leveled(0, 5, 9), 3),
    ],
)
def test_one_level_is_none(made: dict[str, Any], n: int) -> None:
    data = packed(config(clusters=[made]))
    assert Frozen(data).check() is None and len(levels_of(data)) == n


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (leveled(*range(17)), r"clusters\[0\]\.endpoints: more than 16 levels"),
        (leveled(0, 1, shares=[50]), r"clusters\[0\]\.shares: a level has none"),
        (leveled(0, 1, shares=[50, 0]), r"clusters\[0\]\.shares\[1\]: 0 is not a whole number from 1 to 100"),
        (leveled(0, 1, shares=[60, 50]), r"clusters\[0\]\.shares: more than 100 percent"),
    ],
)
def test_what_cannot_be_packed_is_refused_with_its_path(made: dict[str, Any], why: str) -> None:
    with pytest.raises(SnapshotError, match=why):
        packed(config(clusters=[made]))


def test_levels_are_those_of_the_cluster() -> None:
    packer = Packer()
    index = packer.cluster(
        "c", service="", endpoints=(), lb=0, flags=0, connect_timeout_ms=0, idle_timeout_ms=0,
        max_requests_per_connection=0, max_connections=0, max_streams=0, tls=0, sni="", sans=[], tls_policy=0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="not of this cluster"):
        packer.cluster_levels(index, [(1, 0)])


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (0, 1, "a level out of order"),
        (1, 0, "a level out of order"),
        (1, 9, "a level out of order"),
        (1, 1, "weights do not add up"),
        (2, 5, "weights do not add up"),
        (3, 0, "stride out of range"),
        (3, 6, "stride out of range"),
        (4, 1, "a level's share out of range"),
        (4, 0xFFFFFFFF, "a level's share out of range"),
    ],
)
def test_a_field_out_of_bounds_is_named(field: int, value: int, why: str) -> None:
    data = bytearray(packed(config(clusters=[leveled(0, 0, 1, 1, weights=(3, 3, 1, 1))])))
    (off,) = struct.unpack_from("<I", data, LEVELS_AT)
    struct.pack_into("<I", data, off + 4 * field, value)
    assert Frozen(resealed(data)).check() == ("clusters", 0, why)


@pytest.mark.parametrize("lb", ["ROUND_ROBIN", "RING_HASH", "MAGLEV"])
@pytest.mark.parametrize("shares", [[], [70, 20, 10]])
def test_changed_bytes_are_refused_or_harmless(lb: str, shares: list[int]) -> None:
    rnd = random.Random(f"{lb}{shares}")
    more: dict[str, Any] = {"hash": HASH} if lb != "ROUND_ROBIN" else {}
    if shares:
        more["shares"] = shares
    data = packed(
        config(clusters=[leveled(0, 1, 1, 2, 2, weights=(1, 2, 3, 4, 5), lb=lb, outlier={}, **more)])
    )
    spans = [
        (off, off + size * n)
        for off, n, size in (
            (*struct.unpack_from("<II", data, LEVELS_AT), 32),
            (*section(data, "clusters"), 320),
            (*section(data, "endpoints"), 64),
            (*section(data, "u32s"), 4),
        )
        if n
    ]
    worker = WorkerView(Segment.create(1), 0)
    taken = 0
    for _ in range(1500):
        made = bytearray(data)
        start, end = rnd.choice(spans)
        at = rnd.randrange(start, end) & ~3
        old = struct.unpack_from("<I", made, at)[0]
        values = (0, 1, 2, 5, 17, 0x7FFFFFFF, 0xFFFFFFFF, (old + rnd.choice((-64, -1, 1, 64))) & 0xFFFFFFFF)
        struct.pack_into("<I", made, at, rnd.choice(values))
        frozen = Frozen(resealed(made))
        if frozen.check() is None:
            taken += 1
            balancer = Balancer(frozen, worker)
            for _ in range(20):
                balancer.pick_all()
    assert taken > 50
