"""Workers that run, and die, while the agent reads: wake-ups of the ring, tables left half-way by kill -9."""

from __future__ import annotations

import os
import random
import select
import signal
import time

import pytest
from shim.shm_shim import WorkerView

from fastmesh._core.shm.segment import Segment
from helpers.forks import ended, in_child


def test_two_writers_and_a_sleeping_reader_lose_no_wake_up():
    segment = Segment.create(2)
    each = 6000

    def work(row: int) -> None:
        view = WorkerView(segment, row)
        for i in range(each):
            while view.log([b"%d" % row, b"%d" % i, *[b""] * 9]) != 0:
                os.sched_yield()  # full: a worker would drop it, this test wants each one
            if i % 97 == 0:
                while not view.agent_sleeps():
                    os.sched_yield()

    children = [in_child(lambda row=row: work(row)) for row in range(2)]
    got: list[list[int]] = [[], []]
    slept = 0
    try:
        while sum(map(len, got)) < 2 * each:
            for record in segment.log_records(500):
                got[int(record["method"])].append(int(record["path"]))
            if sum(map(len, got)) < 2 * each and segment.arm():
                slept += 1
                assert select.select([segment.agent_fd], [], [], 20)[0], (
                    "a record was added and nobody was woken"
                )
                os.eventfd_read(segment.agent_fd)
    finally:
        for child in children:
            if sum(map(len, got)) < 2 * each:
                os.kill(child, signal.SIGKILL)
        assert [ended(child) for child in children] == [0, 0]
    assert got == [list(range(each))] * 2
    assert slept


@pytest.mark.parametrize("seed", range(4))
def test_a_worker_killed_anywhere_leaves_tables_that_its_successor_can_use(seed):
    segment = Segment.create(1)
    rnd = random.Random(seed)
    ready, tell = os.pipe()

    def work() -> None:
        view = WorkerView(segment, 0)
        os.write(tell, b"x")
        for i in range(10**9):
            view.observe(cluster=1 + i % 900, status=200 + i // 900 % 2)
            view.peer(b"spiffe://d/%d" % (i % 200))
            view.log([b"GET", *[b"x" * (i % 50)] * 10])

    child = in_child(work)
    os.read(ready, 1)
    time.sleep(rnd.random() * 0.02)  # anywhere
    os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL
    os.close(ready)
    os.close(tell)
    segment.reap(0)

    before = {(s["cluster"], s["status"]): s["count"] for s in segment.series() if not s["overflow"]}
    assert len(before) == len([s for s in segment.series() if not s["overflow"]])
    records = segment.log_records(10**6)
    assert all(r["method"] == "GET" and set(r["path"]) <= {"x"} for r in records)
    # the next process of the slot goes on
    view = WorkerView(segment, 0)
    for cluster, status in before:
        view.observe(cluster=cluster, status=status)
    after = {(s["cluster"], s["status"]): s["count"] for s in segment.series() if not s["overflow"]}
    assert after == {key: count + 1 for key, count in before.items()}
    slots = [view.peer(b"spiffe://d/%d" % i) for i in range(200)]
    assert len(set(slots)) == 200
    assert view.log([b"PUT", *[b""] * 10]) == 0
    assert [r["method"] for r in segment.log_records(10)] == ["PUT"]
