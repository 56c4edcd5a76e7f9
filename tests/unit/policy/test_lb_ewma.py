"""Peak-EWMA: the estimate against its definition, and who is chosen by it."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shim.policy_shim import Balancer
from shim.shm_shim import Frozen, WorkerView

from fastmesh._core.shm.segment import Segment, SnapshotError
from helpers.irconf import cluster, config, packed

MS = 1_000_000
START = 30 * MS
LEAST = 1000
NOW = 10**15


class Setup:
    """One cluster "c" with PEAK_EWMA, balancers of all workers."""

    def __init__(self, weights: list[int], workers: int = 1) -> None:
        made = cluster("c", *range(1, len(weights) + 1), weights=tuple(weights), lb="PEAK_EWMA")
        self.frozen = Frozen(packed(config(clusters=[made])))
        assert self.frozen.check() is None
        self.segment = Segment.create(workers)
        self.views = [WorkerView(self.segment, i) for i in range(workers)]
        self.balancers = [Balancer(self.frozen, view, 7 + i) for i, view in enumerate(self.views)]
        self.one = self.balancers[0]
        self.cells = {int(text.rpartition(":")[2]): cell for text, cell in self.one.cells("c").items()}

    def pick(self, n: int, worker: int = 0, now: int = NOW, **more: int) -> Counter[int]:
        picked = self.balancers[worker].pick("c", n, now=now, **more)
        return Counter(int(text.rpartition(":")[2]) for text in picked)


@given(st.lists(st.tuples(st.integers(0, 60_000 * MS), st.integers(1, 20_000 * MS)), max_size=30))
def test_the_estimate_is_the_definitions(steps):
    """(time since the last observation, what it took)."""
    s = Setup([1])
    cell, now, estimate = s.cells[1], NOW, float(START)
    assert s.one.cost(cell, now) == START
    for since, took in steps:
        now += since
        s.one.observe(cell, now, took)
        share = math.exp(-since / (10_000 * MS))
        estimate = took if took >= estimate else estimate * share + took * (1 - share)
        assert s.one.cost(cell, now) == pytest.approx(max(estimate, LEAST), rel=1e-6, abs=len(steps) + 1)
        estimate = math.floor(estimate)


def test_a_peak_counts_at_once_and_fades():
    s = Setup([1])
    cell = s.cells[1]
    s.one.observe(cell, NOW, 5 * MS)
    s.one.observe(cell, NOW, 900 * MS)
    assert s.one.cost(cell, NOW) == 900 * MS
    assert s.one.cost(cell, NOW + 10_000 * MS) == pytest.approx(900 * MS / math.e)
    assert s.one.cost(cell, NOW + 10**13) == LEAST  # nobody asks it: forgiven, but never free


def test_a_clock_that_is_behind_does_no_harm():
    s = Setup([1])
    s.one.observe(s.cells[1], NOW, 50 * MS)
    assert s.one.cost(s.cells[1], NOW - 5) == 50 * MS
    s.one.observe(s.cells[1], NOW - 5, 10 * MS)
    assert s.one.cost(s.cells[1], NOW - 5) == 50 * MS


def test_requests_in_flight_count_besides():
    s = Setup([1, 1])
    assert s.one.cost(s.cells[1], NOW, 3) == 4 * START
    s.one.observe(s.cells[1], NOW, 40 * MS)
    s.one.observe(s.cells[2], NOW, 100 * MS)
    s.views[0].endpoint(s.cells[1], active=1)
    assert s.pick(50) == {1: 50}  # 2 * 40 < 100
    s.views[0].endpoint(s.cells[1], active=2)
    assert s.pick(50) == {2: 50}


def test_what_one_worker_has_seen_all_know():
    s = Setup([1, 1], workers=3)
    s.balancers[1].observe(s.cells[2], NOW, 400 * MS)
    assert [s.pick(40, worker) for worker in range(3)] == [{1: 40}] * 3


def test_of_many_the_slowest_gets_nothing_and_the_others_all_get_some():
    s = Setup([1] * 8)
    for port, cell in s.cells.items():
        s.one.observe(cell, NOW, (400 if port == 8 else 40) * MS)
    counts = s.pick(4000)
    assert set(counts) == set(range(1, 8))


def test_an_unknown_endpoint_is_asked_and_a_slow_one_again_in_time():
    s = Setup([1, 1])
    s.one.observe(s.cells[1], NOW, 50 * MS)
    assert s.pick(20) == {2: 20}
    s = Setup([1, 1])
    s.one.observe(s.cells[1], NOW, 1 * MS)
    assert s.pick(20) == {1: 20}
    s.one.observe(s.cells[1], NOW + 40_000 * MS, 1 * MS)  # the one that is used stays at a millisecond
    assert s.pick(20, now=NOW + 40_000 * MS) == {2: 20}


def test_weights_count():
    s = Setup([1, 4])
    for cell in s.cells.values():
        s.one.observe(cell, NOW, 50 * MS)
    assert 700 < s.pick(1000)[2] < 900  # nobody is busy: by weight
    s.views[0].endpoint(s.cells[1], active=1)
    s.views[0].endpoint(s.cells[2], active=3)
    assert s.pick(30) == {2: 30}  # three of four are less than one of one
    s.views[0].endpoint(s.cells[2], active=5)
    assert s.pick(30) == {1: 30}


def test_ejected_and_avoided_endpoints_are_left_alone():
    s = Setup([1, 1, 1])
    s.one.observe(s.cells[1], NOW, 1 * MS)
    s.views[0].eject(s.cells[1], NOW + 1)
    assert set(s.pick(200)) == {2, 3}
    assert set(s.pick(200, tried=[s.cells[2]])) == {3}


def test_a_cell_that_is_taken_again_knows_nothing():
    s = Setup([1])
    s.one.observe(s.cells[1], NOW, 9000 * MS)
    s.segment.cell_free(s.cells[1])
    assert s.one.cost(s.cells[1], NOW) == START


def test_the_decay_is_checked():
    for decay in (0, -1, 2**33, "x"):
        with pytest.raises(SnapshotError, match=r"clusters\[0\]\.decay_ms"):
            packed(config(clusters=[cluster("c", 1, lb="PEAK_EWMA", decay_ms=decay)]))
