"""Warm-up: what a new endpoint gets, from its first second until it is as any other."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from shim.policy_shim import Balancer
from shim.shm_shim import Frozen, WorkerView

from fastmesh._core.shm.segment import Segment, SnapshotError
from fastmesh.compile.snapshot import CellMap
from helpers.irconf import cluster, config, packed

ALL = ["ROUND_ROBIN", "LEAST_REQUEST", "PEAK_EWMA"]
SECOND = 1_000_000_000
CAME = 10**15  # CLOCK_MONOTONIC of the newcomer, port 1
WARM = {"ms": 100_000}
N = 8000


class Setup:
    """Endpoints of which the first has just come."""

    def __init__(self, lb: str, weights: list[int], **warm: Any) -> None:
        made = cluster("c", *range(1, len(weights) + 1), weights=tuple(weights), lb=lb, warm={**WARM, **warm})
        self.frozen = Frozen(packed(config(clusters=[made])))
        assert self.frozen.check() is None
        self.segment = Segment.create(1)
        self.view = WorkerView(self.segment, 0)
        self.balancer = Balancer(self.frozen, self.view, 11)
        self.cells = {int(text.rpartition(":")[2]): c for text, c in self.balancer.cells("c").items()}
        self.balancer.since(self.cells[1], CAME)

    def share(self, age: float, n: int = N) -> float:
        picked = self.balancer.pick("c", n, now=CAME + int(age * SECOND))
        return Counter(picked)["127.0.0.1:1"] / n


def near(share: float, expected: float) -> bool:
    return abs(share - expected) < 6 * math.sqrt(expected * (1 - expected) / N) + 0.004


@pytest.mark.parametrize("lb", ALL)
@pytest.mark.parametrize("n", [3, 10])
@pytest.mark.parametrize("age", [0, 5, 30, 70, 100, 1000])
def test_an_idle_clusters_newcomer_gets_its_share(lb: str, n: int, age: float) -> None:
    factor = min(1.0, max(0.1, max(age, 1) / 100))
    share = Setup(lb, [1] * n).share(age)
    assert near(share, factor / (factor + n - 1)), share


@pytest.mark.parametrize("lb", ["ROUND_ROBIN", "LEAST_REQUEST"])
def test_weights_count_besides(lb: str) -> None:
    factor = 0.5
    share = Setup(lb, [6, 2, 3, 1]).share(50)
    assert near(share, 6 * factor / (6 * factor + 6)), share


@pytest.mark.parametrize(
    ("warm", "age", "factor"),
    [
        ({"least_percent": 30}, 0, 0.3),
        ({"least_percent": 0}, 0, 0.01),  # Envoy's: the first second counts as whole
        ({"least_percent": 100}, 0, 1.0),
        ({"aggression_centi": 200}, 25, 0.5),
        ({"aggression_centi": 200}, 81, 0.9),
        ({"aggression_centi": 100}, 25, 0.25),
    ],
)
def test_the_formula_is_envoys(warm: dict[str, int], age: float, factor: float) -> None:
    share = Setup("ROUND_ROBIN", [1, 1, 1], **warm).share(age)
    assert near(share, factor / (factor + 2)), share


def test_who_is_busy_does_not_fall_behind_a_newcomer() -> None:
    """All others have requests in flight: without warm-up the newcomer would be taken whenever it is looked
    at."""
    s = Setup("LEAST_REQUEST", [1] * 10)
    for port in range(2, 11):
        s.view.endpoint(s.cells[port], active=5)
    assert s.share(0) < 2 * 0.1 / 10 * 1.5
    s.view.endpoint(s.cells[1], active=1)
    cold = s.share(0)
    assert s.share(100) > 1.8 / 10  # warm, and less busy
    assert cold < 0.02  # one request of a tenth of the weight is as many as ten


@pytest.mark.parametrize("lb", ALL)
def test_where_all_are_new_all_are_used(lb: str) -> None:
    s = Setup(lb, [1] * 4)
    for cell in s.cells.values():
        s.balancer.since(cell, CAME)
    assert near(s.share(0), 0.25)
    one = Setup(lb, [1])
    assert one.share(0, 10) == 1.0


def test_endpoints_of_the_first_config_are_warm_and_later_ones_new() -> None:
    """By when their cells were taken; and one that comes back is new again."""
    segment = Segment.create(1)
    cells = CellMap(segment)

    def publish(*ports: int) -> dict[int, bool]:
        made = packed(
            config(clusters=[cluster("c", *ports, lb="ROUND_ROBIN", warm={"ms": 3_600_000})]), cells
        )
        generation = segment.publish(made)
        view = WorkerView(segment, 0)
        view.seen(generation)
        frozen = Frozen(made)
        balancer = Balancer(frozen, view, 3)
        return {
            int(text.rpartition(":")[2]): balancer.is_new(cell) for text, cell in balancer.cells("c").items()
        }

    assert publish(1, 2) == {1: False, 2: False}
    assert publish(1, 2, 3) == {1: False, 2: False, 3: True}
    assert publish(2, 3) == {2: False, 3: True}
    publish(2)  # 1 is free again by now
    assert publish(2, 1) == {2: False, 1: True}


def test_what_is_out_of_range_is_refused_with_its_path() -> None:
    for warm, why in (
        ({"ms": 0}, "ms"),
        ({"ms": 5, "least_percent": 101}, "least_percent"),
        ({"ms": 5, "aggression_centi": 99}, "aggression_centi"),
    ):
        with pytest.raises(SnapshotError, match=rf"clusters\[0\]\.warm\.{why}:"):
            packed(config(clusters=[cluster("c", 1, warm=warm)]))
    with pytest.raises(SnapshotError, match=r"clusters\[0\]\.warm:"):
        packed(config(clusters=[cluster("c", 1, lb="RANDOM", warm=WARM)]))
