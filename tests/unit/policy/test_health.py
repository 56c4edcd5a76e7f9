"""policy/health: when a check is due, who makes it, and what its result makes of the endpoint, over all
workers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shim.health_shim import Checks
from shim.policy_shim import Balancer
from shim.shm_shim import Frozen, WorkerView

from fastmesh._core.shm import clusters
from fastmesh._core.shm.segment import Segment
from fastmesh.compile.cells import CellMap
from fastmesh.compile.snapshot import pack
from helpers.irconf import cluster, config

MS = 10**6
S = 10**9
NOW = 10**15
UNKNOWN, HEALTHY, UNHEALTHY = range(3)
SAME, UP, DOWN, LATE = range(4)
HTTP = {"kind": "http", "path": "/healthz", "interval_ms": 5000, "timeout_ms": 1000, "jitter_percent": 0}


class Setup:
    """A cluster "c" with health checks, and its workers."""

    def __init__(
        self, endpoints: int = 1, workers: int = 1, more: dict[str, Any] | None = None, **health: Any
    ) -> None:
        self.segment = Segment.create(workers)
        self.map = CellMap(self.segment)
        self.endpoints = endpoints
        self.made = [
            cluster("c", *range(1, endpoints + 1), health={**HTTP, **health}, lb="RANDOM", **(more or {}))
        ]
        self.views = [WorkerView(self.segment, i) for i in range(workers)]
        self.publish()
        self.now = NOW

    def publish(self) -> None:
        packed = pack(config(clusters=self.made), self.map)
        self.segment.publish(packed)
        self.frozen = Frozen(packed)
        assert self.frozen.check() is None
        self.workers = [Checks(self.frozen, view, "c") for view in self.views]
        self.balancer = Balancer(self.frozen, self.views[0], 7)
        self.cells = {int(k.rpartition(":")[2]): v for k, v in self.balancer.cells("c").items()}

    def check(self, good: bool, port: int = 1, worker: int = 0, rnd: int = 0) -> int:
        """The next check when it is due; what its result changes."""
        one, cell = self.workers[worker], self.cells[port]
        self.now = max(self.now, one.due(cell, self.now))
        claim = one.claim(cell, self.now)
        assert claim
        found: int = one.result(cell, claim, good, self.now, rnd)
        return found

    def state(self, port: int = 1) -> dict[str, int]:
        return clusters.health(self.segment, self.cells[port])

    def picks(self, n: int = 60) -> set[int | None]:
        found = self.balancer.pick("c", n, now=self.now)
        return {None if text is None else int(text.rpartition(":")[2]) for text in found}


@pytest.mark.parametrize(
    ("results", "said"),
    [
        # the first check decides, either way
        ("+", "U"),
        ("-", "D"),
        # three failures in a row; a success in between begins anew
        ("+---", "U..D"),
        ("+--+---", "U.....D"),
        # two successes in a row bring it back
        ("-++", "D.U"),
        ("-+-++", "D...U"),
        ("+---++---", "U..D.U..D"),
        ("++++", "U..."),
        ("----", "D..."),
    ],
)
def test_verdicts(results: str, said: str) -> None:
    s = Setup()
    letters = {SAME: ".", UP: "U", DOWN: "D"}
    assert "".join(letters[s.check(r == "+")] for r in results) == said


@pytest.mark.parametrize(("unhealthy", "healthy"), [(1, 1), (1, 4), (5, 1), (4, 3)])
def test_thresholds(unhealthy: int, healthy: int) -> None:
    s = Setup(unhealthy=unhealthy, healthy=healthy)
    assert s.check(True) == UP
    assert [s.check(False) for _ in range(unhealthy)] == [SAME] * (unhealthy - 1) + [DOWN]
    assert s.state()["health"] == UNHEALTHY and s.state()["in_row_fail"] == unhealthy
    assert [s.check(True) for _ in range(healthy)] == [SAME] * (healthy - 1) + [UP]
    assert s.state()["health"] == HEALTHY and s.state()["in_row_pass"] == healthy


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_against_a_model(results: list[bool], unhealthy: int, healthy: int) -> None:
    s = Setup(unhealthy=unhealthy, healthy=healthy)
    state, row, last = UNKNOWN, 0, None
    for good in results:
        row = row + 1 if good == last else 1
        last = good
        want = HEALTHY if good else UNHEALTHY
        if state == UNKNOWN or row >= (healthy if good else unhealthy):
            state = want
        s.check(good)
        assert s.state()["health"] == state


def test_of_several_workers_one_makes_each_check() -> None:
    s = Setup(workers=4)
    cell = s.cells[1]
    claims = [w.claim(cell, s.now) for w in s.workers]
    assert [bool(c) for c in claims] == [True, False, False, False]
    s.workers[0].result(cell, claims[0], True, s.now + MS)
    # five seconds after the end of it, and not before
    assert not any(w.claim(cell, s.now + 5 * S) for w in s.workers)
    assert [bool(w.claim(cell, s.now + 5 * S + MS)) for w in reversed(s.workers)] == [
        True,
        False,
        False,
        False,
    ]


def test_the_check_of_a_worker_that_dies_falls_to_the_others() -> None:
    s = Setup(workers=2)
    cell, (dead, other) = s.cells[1], s.workers
    claim = dead.claim(cell, s.now)
    later = s.now + 6 * S
    assert not other.claim(cell, later)
    later += 10 * MS
    taken = other.claim(cell, later)
    assert taken
    # and if it was not dead but slow, its result does not count any more
    assert dead.result(cell, claim, False, later) == LATE
    assert s.state()["health"] == UNKNOWN and s.state()["in_row_fail"] == 0
    assert other.result(cell, taken, True, later) == UP


def test_one_that_is_given_back_is_due_at_once() -> None:
    s = Setup(workers=2)
    cell, (one, other) = s.cells[1], s.workers
    claim = one.claim(cell, s.now)
    one.give_back(cell, claim, s.now)
    assert other.claim(cell, s.now + 1)
    one.give_back(cell, claim, s.now + 1)  # it is not its own any more
    assert not one.claim(cell, s.now + 1)


@pytest.mark.parametrize(("rnd", "ms"), [(0, 0), (2**31, 500), (2**32 - 1, 999)])
def test_jitter_is_a_part_of_the_interval(rnd: int, ms: int) -> None:
    s = Setup(jitter_percent=20)
    s.check(True, rnd=rnd)
    assert (s.workers[0].due(s.cells[1], s.now) - s.now) // MS == 5000 + ms


def test_a_shorter_interval_holds_at_once() -> None:
    s = Setup(interval_ms=3_600_000)
    s.check(True)
    assert s.workers[0].due(s.cells[1], s.now) == s.now + 3600 * S
    s.made[0]["health"]["interval_ms"] = 1000
    s.publish()
    assert s.workers[0].due(s.cells[1], s.now) == s.now
    assert s.check(True) == SAME


def test_what_is_not_checked_any_more_is_forgotten() -> None:
    s = Setup()
    s.check(False)
    one, cell = s.workers[0], s.cells[1]
    s.now += 10 * S
    claim = one.claim(cell, s.now)
    one.forget(cell)
    assert s.state() == {"health": UNKNOWN, "in_row_pass": 0, "in_row_fail": 0, "check_at": 0}
    assert one.result(cell, claim, False, s.now) == LATE
    assert s.state()["health"] == UNKNOWN


def test_an_endpoint_warms_up_when_it_comes_back_and_not_before() -> None:
    s = Setup()
    cell = s.cells[1]
    s.check(True)
    assert s.workers[0].since(cell) == 0
    for good in (False, False, False, True, True):
        s.check(good)
    assert s.workers[0].since(cell) == s.now


LBS = ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "PEAK_EWMA"]


@pytest.mark.parametrize("lb", LBS)
@pytest.mark.parametrize("outlier", [None, {"max_percent": 100}])
def test_an_unhealthy_endpoint_gets_nothing(lb: str, outlier: dict[str, Any] | None) -> None:
    s = Setup(3, more={"outlier": outlier} if outlier else {})
    s.made[0]["lb"] = lb
    s.publish()
    s.check(False, 1)
    assert s.picks() == {2, 3}
    s.check(False, 2)
    assert s.picks() == {3}
    s.check(False, 3)
    assert s.picks() == {None}
    s.check(True, 2)
    s.check(True, 2)
    assert s.picks() == {2}


@pytest.mark.parametrize("lb", ["RING_HASH", "MAGLEV"])
def test_hashing_goes_past_an_unhealthy_endpoint(lb: str) -> None:
    s = Setup(3)
    s.made[0].update(lb=lb, hash={"on": "source"})
    s.publish()
    keys = range(10**17, 10**19, 10**17)
    before = {k: s.balancer.pick("c", key=k, now=s.now)[0] for k in keys}
    s.check(False, 1)
    after = {k: s.balancer.pick("c", key=k, now=s.now)[0] for k in keys}
    assert "127.0.0.1:1" not in after.values()
    assert all(after[k] == v for k, v in before.items() if v != "127.0.0.1:1")


def test_the_count_and_the_panic_threshold() -> None:
    s = Setup(4, more={"outlier": {"max_percent": 100, "min_health_percent": 50}})
    cell = s.map.clusters[next(iter(s.map.clusters))]
    for port in (1, 2):
        s.check(False, port)
    assert s.workers[0].count() == 2 and clusters.stats(s.segment, cell)["unhealthy"] == 2
    assert s.picks() == {3, 4}
    # the same two are ejected too: they are not four
    for port in (1, 2):
        for _ in range(5):
            s.balancer.result("c", s.cells[port], 1, now=s.now)
    assert clusters.stats(s.segment, cell)["ejected"] == 2 and s.workers[0].out() == 2
    assert s.picks() == {3, 4}
    # one more, either way, is too much: all are used
    s.check(False, 3)
    assert s.workers[0].count() == 3 and s.picks() == {1, 2, 3, 4}


def test_a_config_without_checks_uses_what_was_unhealthy() -> None:
    """Until its workers have forgotten it."""
    s = Setup(2)
    s.check(False, 1)
    s.check(False, 2)
    del s.made[0]["health"]
    s.publish()
    assert s.picks() == {1, 2}
