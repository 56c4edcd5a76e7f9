"""shm/ring: one writer, one reader, wrap-around, a full ring, and bytes that are no record."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shim.shm_shim import LIMITS, RingBox, WorkerView

from fastmesh._core.shm.segment import RING_BYTES, Segment

LEAST, MOST = LIMITS["log_rec"], LIMITS["record"]
FULL, NO_RECORD = -54, -5


def record(n: int, fill: int = 7) -> bytes:
    return n.to_bytes(4, "little") + bytes([fill & 255]) * (n - 4)


SIZES = st.integers(LEAST // 8, MOST // 8).map(lambda n: n * 8)


@given(st.integers(0, 2**40), st.lists(SIZES, max_size=60), st.randoms())
def test_what_goes_in_comes_out_in_order(start, sizes, rnd):
    ring, waiting = RingBox(start & ~7), []
    for i, size in enumerate(sizes):
        assert ring.put(record(size, i)) == 0
        waiting.append(record(size, i))
        while waiting and rnd.random() < 0.6:
            assert ring.get() == waiting.pop(0)
    for one in waiting:
        assert ring.get() == one
    assert ring.empty() and ring.get() == 0


def test_records_wrap_around_many_times():
    ring, rnd = RingBox(), random.Random(1)
    done = 0
    while done < 5 * RING_BYTES:
        size = rnd.randrange(LEAST, MOST, 8)
        assert ring.put(record(size, done)) == 0
        assert ring.get() == record(size, done)
        done += size


def test_a_full_ring_drops_what_comes_and_keeps_what_is_there():
    ring = RingBox(RING_BYTES - 512)
    n = RING_BYTES // 1024
    for i in range(n):
        assert ring.put(record(1024, i)) == 0
    assert ring.put(record(1024)) == FULL and ring.put(record(LEAST)) == FULL
    assert ring.get() == record(1024, 0)
    assert ring.put(record(1024, n)) == 0 and ring.put(record(LEAST)) == FULL
    assert [ring.get() for _ in range(n)] == [record(1024, i) for i in range(1, n + 1)]


@pytest.mark.parametrize("size", [0, 8, LEAST - 8, LEAST + 4, MOST + 8])
def test_a_record_of_a_wrong_size_is_refused(size):
    assert RingBox().put(bytes(size)) == NO_RECORD


@pytest.mark.parametrize("size", [0, 1, LEAST - 8, LEAST + 1, MOST + 8, 2**32 - 8, 4096])
def test_a_length_that_cannot_be_skips_to_the_end(size):
    ring = RingBox()
    ring.put(record(256))
    ring.put(record(256))
    ring.scribble(0, size.to_bytes(4, "little"))
    assert ring.get() == NO_RECORD
    assert ring.empty() and ring.put(record(256)) == 0 and ring.get() == record(256)


@given(st.integers(-2 * RING_BYTES, 2 * RING_BYTES))
def test_a_write_position_that_cannot_be_ends_in_an_empty_ring(by):
    ring = RingBox(2**30)
    ring.put(record(256))
    ring.skew(by)
    for _ in range(RING_BYTES // LEAST + 1):
        got = ring.get()
        if isinstance(got, int):
            break
    assert ring.empty()


def test_a_log_record_is_read_back_in_full():
    segment = Segment.create(1)
    worker = WorkerView(segment, 0)
    strings = [b"GET", b"/p?q=1", b"reviews:9080", b"ua\xff", b"", b"id"]
    strings += [b"127.0.0.1:1", b"c", b"r", b"via_upstream", b"spiffe://d/x"]
    peer, trace = bytes([10, 0, 0, 1]), bytes(range(16))
    assert worker.log(strings, status=503, flags=3, peer=peer, port=4321, trace=trace, minor=2, grpc=15) == 0
    (got,) = segment.log_records(10)
    assert (got["method"], got["path"], got["user_agent"]) == ("GET", "/p?q=1", "ua\\xff")
    assert got["peer"] == "spiffe://d/x" and got["details"] == "via_upstream"
    assert (got["status"], got["flags"], got["peer_addr"], got["peer_port"]) == (503, 3, "10.0.0.1", 4321)
    assert (got["minor"], got["grpc"]) == (2, 15)
    assert got["trace_id"] == bytes(range(16)).hex()
    assert segment.log_records(10) == []


def test_a_full_log_is_counted_and_drained_over_all_workers():
    segment = Segment.create(2)
    workers = [WorkerView(segment, i) for i in range(2)]
    text = [b"x" * 1000] * 11
    wrote = 0
    while workers[0].log(text) == 0:
        wrote += 1
    assert segment.counters()["log_dropped"] == 1
    assert workers[1].log(text) == 0
    assert len(segment.log_records(5)) == 5
    assert len(segment.log_records(10**6)) == wrote + 1 - 5
