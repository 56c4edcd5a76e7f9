"""shm/stats: bins, series and peers of one worker."""

from __future__ import annotations

import bisect

from hypothesis import given
from hypothesis import strategies as st
from shim.shm_shim import LIMITS, WorkerView, bins

from fastmesh._core.shm import segment as seg


@given(st.integers(0, 10**11) | st.sampled_from([0, 500, 501, 1000, 3_600_000_000, 3_600_000_001, 2**63]))
def test_bins_are_those_of_the_exported_bounds(value):
    duration, hop, size = bins(value)
    assert duration == bisect.bisect_left([b * 1000 for b in seg.DURATION_BOUNDS_MS], value)
    assert hop == bisect.bisect_left(seg.HOP_BOUNDS_US, value)
    assert size == bisect.bisect_left(seg.BYTES_BOUNDS, value)


def test_bounds_are_envoys():
    assert seg.DURATION_BOUNDS_MS[:6] == (0.5, 1, 5, 10, 25, 50) and seg.DURATION_BOUNDS_MS[-1] == 3_600_000
    assert len(seg.DURATION_BOUNDS_MS) == len(seg.HOP_BOUNDS_US) == len(seg.BYTES_BOUNDS) == 19


def test_a_series_is_found_again_and_differs_in_every_field():
    worker = WorkerView(seg.Segment.create(1), 0)
    base = {"cluster": 7, "endpoint": 3, "flags": 1, "status": 200}
    base |= {"peer": 1, "direction": 1, "security": 1, "protocol": 1, "grpc": 1}
    first = worker.observe(**base)
    others = [worker.observe(**{**base, name: value + 1}) for name, value in base.items()]
    assert len({first, *others}) == len(base) + 1
    assert worker.observe(**base) == first


KEYS = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 9000), st.integers(100, 599))


@given(st.lists(KEYS, max_size=200))
def test_series_count_as_a_dict_does(keys):
    segment = seg.Segment.create(1)
    worker = WorkerView(segment, 0)
    oracle = {}
    for cluster, endpoint, status in keys:
        worker.observe(cluster=cluster, endpoint=endpoint, status=status)
        oracle[cluster, endpoint, status] = oracle.get((cluster, endpoint, status), 0) + 1
    assert {(s["cluster"], s["endpoint"], s["status"]): s["count"] for s in segment.series()} == oracle


def test_series_of_different_grpc_statuses_are_told_apart_over_all_workers():
    segment = seg.Segment.create(2)
    for i, grpc in ((0, 0), (0, 1), (1, 1), (1, 15)):
        WorkerView(segment, i).observe(protocol=1, grpc=grpc)
    assert {s["grpc"]: s["count"] for s in segment.series()} == {0: 1, 1: 2, 15: 1}


def test_a_full_table_counts_into_the_overflow_series():
    segment = seg.Segment.create(1)
    worker = WorkerView(segment, 0)
    own = LIMITS["series"] - 1
    for i in range(own + 25):
        worker.observe(cluster=i + 1)
    found = segment.series()
    assert [s["count"] for s in found if s["overflow"]] == [25]
    assert len(found) == own + 1
    assert segment.counters()["series_overflow"] == 25
    assert worker.observe(cluster=1) == 0  # those that have a slot keep it


def test_peers_are_interned_and_resolved():
    segment = seg.Segment.create(1)
    worker = WorkerView(segment, 0)
    alice = b"spiffe://cluster.local/ns/default/sa/alice"
    assert worker.peer(b"") == 0
    assert worker.peer(alice) == worker.peer(alice) == 1
    assert worker.peer(alice + b"s") == 2
    worker.observe(peer=1)
    worker.observe(peer=0)
    assert {s["peer"] for s in segment.series()} == {alice.decode(), ""}


def test_more_peers_than_rows_are_one():
    segment = seg.Segment.create(1)
    worker = WorkerView(segment, 0)
    slots = {worker.peer(b"spiffe://d/%d" % i) for i in range(LIMITS["peers"] + 10)}
    assert slots == set(range(1, LIMITS["peers"]))
    assert worker.peer(b"x" * 300) == LIMITS["peers"] - 1
    worker.observe(peer=LIMITS["peers"] - 1)
    assert segment.series()[0]["peer"] == "overflow"


def test_series_of_workers_are_merged_by_the_text_of_their_peer():
    segment = seg.Segment.create(2)
    first, second = WorkerView(segment, 0), WorkerView(segment, 1)
    first.peer(b"spiffe://d/other")
    one, two = first.peer(b"spiffe://d/a"), second.peer(b"spiffe://d/a")
    assert one != two
    first.observe(cluster=5, peer=one, us=700)
    second.observe(cluster=5, peer=two, us=400)
    (series,) = segment.series()
    assert series["count"] == 2 and series["peer"] == "spiffe://d/a"
    assert series["duration"][0] == 1100 and series["duration"][1:3] == [1, 1]
