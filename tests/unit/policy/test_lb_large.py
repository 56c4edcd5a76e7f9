"""policy/lb in clusters so large that the next choice is fetched ahead: they choose as small ones do."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from shim.policy_shim import AHEAD, Balancer
from shim.shm_shim import Frozen, WorkerView

from fastmesh._core.shm.segment import EP_CELLS, Segment
from helpers.irconf import cluster, config, packed

WAYS = ["RANDOM", "LEAST_REQUEST", "PEAK_EWMA", "ROUND_ROBIN"]


class Setup:
    """Clusters "c0", "c1" ... of so many endpoints, and a balancer of one of the workers."""

    def __init__(self, lb: str, *sizes: int, seed: int = 12345, workers: int = 2) -> None:
        made = [cluster(f"c{i}", *range(1, size + 1), lb=lb) for i, size in enumerate(sizes)]
        self.frozen = Frozen(packed(config(clusters=made)))
        assert self.frozen.check() is None
        self.segment = Segment.create(workers)
        self.views = [WorkerView(self.segment, i) for i in range(workers)]
        self.balancer = Balancer(self.frozen, self.views[0], seed)

    def counts(self, n: int, name: str = "c0") -> Counter[str]:
        return Counter(self.balancer.pick(name, n, now=10**15))


@pytest.mark.parametrize("lb", WAYS)
@pytest.mark.parametrize("size", [AHEAD - 1, AHEAD, AHEAD + 1, 1000])
def test_all_get_the_same(lb: str, size: int) -> None:
    each = 200
    counts = Setup(lb, size).counts(each * size)
    assert len(counts) == size
    # chi-square: mean is the degrees of freedom, deviation sqrt(2 * that)
    chi2 = sum((count - each) ** 2 / each for count in counts.values())
    assert chi2 < size + 6 * math.sqrt(2 * size)


@pytest.mark.parametrize("lb", ["RANDOM", "LEAST_REQUEST"])
def test_each_cluster_and_each_worker_draws_for_itself(lb: str) -> None:
    s = Setup(lb, 1000, 1000)
    one, other = s.balancer.pick("c0", 200), s.balancer.pick("c1", 200)
    assert one != other
    assert s.balancer.pick("c0", 200) != one
    assert Balancer(s.frozen, s.views[1], 54321).pick("c0", 200) != one


def test_what_is_asked_in_between_changes_no_draw() -> None:
    alone, mixed = Setup("RANDOM", 1000, 1000), Setup("RANDOM", 1000, 1000)
    first = alone.balancer.pick("c0", 1) + alone.balancer.pick("c0", 100)
    taken = mixed.balancer.pick("c0", 1)
    for _ in range(100):
        mixed.balancer.pick("c1", 1)
        taken += mixed.balancer.pick("c0", 1)
    assert taken == first


def test_the_busy_are_avoided_and_the_ejected_left_out() -> None:
    s = Setup("LEAST_REQUEST", 1000)
    cells = s.balancer.cells("c0")
    names = sorted(cells)
    busy, out = names[:500], names[500]
    for name in busy:
        s.views[1].endpoint(cells[name], active=5)  # another worker's
    s.views[0].eject(cells[out], 2 * 10**15)
    counts = s.counts(20_000)
    assert out not in counts
    # both choices busy: one time in four
    assert sum(counts[name] for name in busy) == pytest.approx(5000, rel=0.1)


@pytest.mark.parametrize("lb", [*WAYS, "MAGLEV", "RING_HASH"])
def test_a_cluster_as_large_as_can_be(lb: str) -> None:
    more = {"hash": {"on": "source"}} if lb in ("MAGLEV", "RING_HASH") else {}
    frozen = Frozen(packed(config(clusters=[cluster("c", *range(1, EP_CELLS + 1), lb=lb, **more)])))
    assert frozen.check() is None
    segment = Segment.create(1)
    balancer = Balancer(frozen, WorkerView(segment, 0), 5)
    picked = [balancer.pick("c", 1, key=key if more else None)[0] for key in range(2000)]
    assert None not in picked
    assert len(set(picked)) > 1500
