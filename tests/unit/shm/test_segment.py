"""shm/segment: generations over forked readers, slots, cells, what a dead worker leaves behind."""

from __future__ import annotations

import os
import select
import signal
import struct
import time

import pytest
from shim.shm_shim import WorkerView

from fastmesh._core.shm import segment as seg
from helpers.forks import ended, in_child
from helpers.irconf import config, packed, route, vhost

SERVING = seg.W_SERVING


def snapshot(name: str) -> bytes:
    return packed(config(vhost(["*"], route()), node_id=name))


def test_before_the_first_snapshot_there_is_none():
    segment = seg.Segment.create(1)
    assert segment.generation == 0 and segment.current_bytes() == b"" and segment.endpoint_tags() == set()
    assert WorkerView(segment, 0).current() is None


@pytest.mark.parametrize("workers", [0, -1, seg.MAX_WORKERS + 1])
def test_a_number_of_workers_out_of_bounds_is_refused(workers):
    with pytest.raises(ValueError, match="workers"):
        seg.Segment.create(workers)


def test_names_fit_the_layout():
    assert seg.COUNTER_NAMES[0] == "cx_total" and "hc_deferred" in seg.COUNTER_NAMES
    assert len(set(seg.COUNTER_NAMES)) == len(seg.COUNTER_NAMES)
    assert list(seg.FLAG_NAMES) == [1 << i for i in range(len(seg.FLAG_NAMES))]


def test_many_generations_reach_a_forked_worker_whole():
    segment = seg.Segment.create(1)
    segment.prepare(0)
    rounds = 40

    def work() -> bool:
        view = WorkerView(segment, 0, True)
        view.state(SERVING)
        seen = 0
        while seen < rounds:
            select.select([segment.wake_fds[0]], [], [], 10)
            try:
                os.eventfd_read(segment.wake_fds[0])
            except BlockingIOError:
                return False  # ten seconds without a poke
            generation, node, whole, stamped = view.current()
            if not whole or generation != stamped or node != f"g{generation}" or generation < seen:
                return False
            seen = generation
            view.seen(seen)
        return True

    child = in_child(work)
    try:
        for i in range(1, rounds + 1):
            deadline = time.monotonic() + 20
            while True:
                try:
                    assert segment.publish(snapshot(f"g{i}")) == i
                    break
                except seg.SnapshotBusy:
                    assert time.monotonic() < deadline
                    os.sched_yield()
        deadline = time.monotonic() + 20
        while not segment.applied(rounds):
            assert time.monotonic() < deadline
            os.sched_yield()
        assert segment.worker(0)["pid"] == child and segment.oldest == rounds
    finally:
        if segment.worker(0)["seen_gen"] < rounds:
            os.kill(child, signal.SIGKILL)
        assert ended(child) == 0


def test_a_worker_cannot_write_a_snapshot():
    segment = seg.Segment.create(1)
    segment.publish(snapshot("a"))
    before = segment.current_bytes()

    def work() -> None:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # no report: it is what must happen
        WorkerView(segment, 0, True).die_writing_a_config()

    assert ended(in_child(work)) == -signal.SIGSEGV
    assert segment.current_bytes() == before


def test_a_worker_cannot_publish():
    segment = seg.Segment.create(1)

    def work() -> None:
        WorkerView(segment, 0, True)
        with pytest.raises(RuntimeError, match="worker"):
            segment.publish(snapshot("a"))

    assert ended(in_child(work)) == 0


def test_the_same_content_changes_nothing():
    segment = seg.Segment.create(1)
    first = snapshot("a")
    assert segment.publish(first) == 1
    os.eventfd_read(segment.wake_fds[0])
    assert segment.publish(first) == 1
    with pytest.raises(BlockingIOError):
        os.eventfd_read(segment.wake_fds[0])  # nobody was poked
    assert segment.publish(snapshot("b")) == 2
    assert segment.publish(first) == 3


def test_a_generation_in_use_is_kept_and_then_given_back():
    segment = seg.Segment.create(2)
    views = [WorkerView(segment, i) for i in range(2)]
    for i, view in enumerate(views):
        segment.prepare(i)
        view.state(SERVING)
        view.seen(segment.publish(snapshot("g0")))
    for i in range(1, seg.SNAP_SLOTS):
        assert segment.publish(snapshot(f"g{i}")) == i + 1
        views[0].seen(i + 1)
    with pytest.raises(seg.SnapshotBusy, match="generation 4"):
        segment.publish(snapshot("late"))  # worker 1 still reads the first
    assert segment.generation == seg.SNAP_SLOTS and views[0].current()[1] == "g3"
    views[1].seen(3)
    assert segment.reclaim() == 2
    assert segment.publish(snapshot("late")) == seg.SNAP_SLOTS + 1


def test_a_starting_worker_holds_every_generation_and_a_dead_one_none():
    segment = seg.Segment.create(1)
    segment.publish(snapshot("a"))
    segment.prepare(0)
    assert not segment.applied(1) and segment.oldest == 0
    for i in range(seg.SNAP_SLOTS - 1):
        segment.publish(snapshot(f"b{i}"))
    with pytest.raises(seg.SnapshotBusy):
        segment.publish(snapshot("c"))
    segment.reap(0)
    assert segment.applied(10**6) and segment.publish(snapshot("c")) == seg.SNAP_SLOTS + 1


def test_memory_of_old_generations_is_given_back():
    segment = seg.Segment.create(1)
    view = WorkerView(segment, 0)
    segment.prepare(0)
    view.state(SERVING)

    def hosts(name: str) -> bytes:
        return packed(config(*[vhost([f"h{k}"], route()) for k in range(3000)], node_id=name))

    def resident() -> int:
        with open("/proc/self/smaps") as maps:
            lines = iter(maps)
            for line in lines:
                if "fastmesh-config" in line:
                    return next(int(x.split()[1]) for x in lines if x.startswith("Rss:"))
        raise AssertionError("not mapped")

    view.seen(segment.publish(hosts("first")))
    full = resident()
    for i in range(20):
        view.seen(segment.publish(hosts(f"n{i}")))
    assert resident() < 3 * full
    view.seen(segment.publish(snapshot("small")))
    segment.reclaim()
    assert resident() < full / 4


def test_a_refused_snapshot_leaves_the_old_one_and_its_slot_free():
    segment = seg.Segment.create(1)
    good = snapshot("a")
    segment.publish(good)
    serving = segment.current_bytes()
    cut = good[:-8]
    wrong = good[:-1] + bytes([good[-1] ^ 1])
    for bad in (b"", b"x" * 300, cut, wrong, good + bytes(8), bytes(len(good))):
        with pytest.raises(seg.SnapshotError):
            segment.publish(bad)
        assert segment.generation == 1 and segment.current_bytes() == serving
    assert segment.reclaim() == seg.SNAP_SLOTS - 1
    with pytest.raises(seg.SnapshotError, match="limit"):
        segment.publish(bytes(seg.SNAP_SLOT_BYTES + 8))


def test_a_slot_half_written_by_an_agent_that_died_is_free():
    segment = seg.Segment.create(1)
    view = WorkerView(segment, 0)
    segment.prepare(0)
    view.state(SERVING)
    view.seen(segment.publish(snapshot("a")))
    # a successor that is forked from the arbiter has the same memory, and goes on from it alone
    assert ended(in_child(lambda: segment.publish(snapshot("b")) == 2)) == 0
    assert segment.generation == 2 and view.current()[1] == "b"
    for i in range(3, 8):
        view.seen(segment.publish(snapshot(f"n{i}")))
    assert segment.generation == 7


def test_orders_reach_the_slot_and_poke():
    segment = seg.Segment.create(2)
    segment.order(1, seg.ORDER_DRAIN, 123)
    assert segment.worker(1)["order"] == seg.ORDER_DRAIN and segment.worker(1)["drain_deadline_ns"] == 123
    assert os.eventfd_read(segment.wake_fds[1]) == 1
    with pytest.raises(BlockingIOError):
        os.eventfd_read(segment.wake_fds[0])
    with pytest.raises(ValueError, match="order"):
        segment.order(0, 9)
    for i in (-1, 2):
        with pytest.raises(IndexError):
            segment.order(i, seg.ORDER_STOP)
    segment.prepare(1)
    assert segment.worker(1)["order"] == seg.ORDER_NONE and segment.worker(1)["epoch"] == 1


def test_a_dead_worker_leaves_nothing_raised_and_loses_no_count():
    segment = seg.Segment.create(2)
    views = [WorkerView(segment, i) for i in range(2)]
    segment.cell_take(5, 99)
    for view in views:
        view.state(SERVING)
        view.gauges(3, 2, 1)
        view.endpoint(5, active=2, connections=4, requests=10, failures=1, connects=5)
        view.add(seg.COUNTER_NAMES.index("rq_total"), 7)
        view.observe(cluster=1)
    segment.reap(0)
    stats = segment.endpoint_stats(5)
    names = ("active", "connections", "requests", "failures", "tag")
    assert [stats[name] for name in names] == [2, 4, 20, 2, 99]
    assert stats["workers"][0]["active"] == 0 and stats["workers"][1]["active"] == 2
    gone = segment.worker(0)
    assert (gone["state"], gone["connections"], gone["pid"]) == (seg.W_GONE, 0, 0)
    assert segment.worker(1)["connections"] == 3
    assert segment.counters()["rq_total"] == 14 and segment.worker_counters(0)["rq_total"] == 7
    assert segment.series()[0]["count"] == 2


def test_a_cell_is_quiet_when_no_worker_uses_it():
    segment = seg.Segment.create(2)
    view = WorkerView(segment, 1)
    segment.cell_take(3, 42)
    view.endpoint(3, connections=1, requests=8)
    assert not segment.cell_quiet(3) and segment.cell_tags() == {42: 3}
    view.endpoint(3)
    assert segment.cell_quiet(3)
    view.eject(3, 5)
    segment.cell_free(3)
    stats = segment.endpoint_stats(3)
    assert segment.cell_tags() == {} and stats["requests"] == 0 and stats["ejected"] == 0
    for bad in (-1, seg.EP_CELLS):
        with pytest.raises(IndexError):
            segment.endpoint_stats(bad)


def test_the_agent_is_woken_once_and_only_when_it_sleeps():
    segment = seg.Segment.create(1)
    view = WorkerView(segment, 0)
    text = [b""] * 11
    view.log(text)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(segment.agent_fd)
    assert segment.arm() is False  # there is a record: no sleep
    segment.log_records(10)
    assert segment.arm() is True
    view.log(text)
    view.log(text)
    assert os.eventfd_read(segment.agent_fd) == 1
    assert len(segment.log_records(10)) == 2


def test_a_segment_gives_its_descriptors_back():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        seg.Segment.create(4)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_snapshot_of_another_build_is_refused():
    good = bytearray(snapshot("a"))
    struct.pack_into("<I", good, 4, 99)
    with pytest.raises(seg.SnapshotError, match=r"header\[0\]: not a snapshot of this version"):
        seg.Segment.create(1).publish(bytes(good))
