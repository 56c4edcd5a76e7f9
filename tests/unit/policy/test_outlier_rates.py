"""policy/outlier: success rate and failure percentage of an interval over all workers, against Envoy's
formulas in Python."""

from __future__ import annotations

from statistics import fmean, pstdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shim.policy_shim import Balancer
from shim.shm_shim import Frozen

from fastmesh._core.shm import clusters
from fastmesh.compile.snapshot import pack
from helpers.irconf import cluster, config
from helpers.outlier import E5XX, GATEWAY, LOCAL, OK, S, Setup

INTERVAL = 10 * S


class Rates(Setup):
    """Endpoints whose intervals are said whole: (requests, failures) by port."""

    def __init__(self, endpoints: int = 5, workers: int = 1, **outlier: Any) -> None:
        super().__init__(endpoints, workers, **{"consecutive_5xx": 0, **outlier})
        self.result(1, OK)  # the first interval begins

    def interval(self, *came: tuple[int, int], seconds: int = 10, worker: int = 0) -> list[int]:
        """Who is out when it has ended."""
        for port, (requests, failures) in enumerate(came, 1):
            self.workers[worker].attempts(self.cells[port], requests, failures)
        return self.end(seconds)

    def end(self, seconds: int = 10) -> list[int]:
        self.now += seconds * S
        self.result(max(self.cells), OK)
        return self.out()

    def out(self) -> list[int]:
        return [port for port in self.cells if self.state(port)["ejected_until"]]


RATE: dict[str, Any] = {"success_rate": {}}
PERCENT: dict[str, Any] = {"failure_percentage": {}}


def test_who_succeeds_far_less_than_the_others_is_ejected() -> None:
    s = Rates(**RATE)
    # mean 90, deviation 20, threshold 90 - 1.9 * 20 = 52: Envoy's example
    assert s.interval((100, 0), (100, 0), (100, 50), (100, 0), (100, 0)) == [3]
    assert s.until(3) == 30 and s.ejected == 1
    assert s.counters() == {"od_ejections": 1, "od_ejections_success_rate": 1}


@pytest.mark.parametrize(
    ("outlier", "came"),
    [
        (RATE, [(100, 0)] * 4 + [(99, 99)]),  # too few requests there
        (RATE, [(100, 0)] * 3 + [(99, 0), (100, 100)]),  # too few endpoints that have enough
        (RATE, [(100, 40)] * 5),  # all alike
        (RATE, [(100, 0), (100, 0), (100, 0), (100, 50), (100, 50)]),  # 80 - 1.9 * 24.5 = 33
        ({"success_rate": {"stdev_milli": 2000}}, [(100, 0)] * 4 + [(100, 50)]),  # 50 is not below 50
        ({"success_rate": {"hosts": 6}}, [(100, 0)] * 4 + [(100, 100)]),
        ({"success_rate": {"volume": 101}}, [(100, 0)] * 4 + [(100, 100)]),
        (PERCENT, [(100, 84)] * 5),
        (PERCENT, [(49, 49)] * 5),
        (PERCENT, [(50, 50)] * 4 + [(49, 0)]),
        ({"failure_percentage": {"hosts": 6}}, [(100, 100)] * 5),
        ({}, [(100, 100)] * 5),
    ],
)
def test_nobody_is_ejected(outlier: dict[str, Any], came: list[tuple[int, int]]) -> None:
    s = Rates(**outlier)
    for _ in range(3):
        assert s.interval(*came) == [] and s.counters() == {}


def test_too_many_failures_eject_however_the_others_do() -> None:
    s = Rates(**PERCENT)
    assert s.interval((50, 50), (50, 50), (50, 50), (50, 50), (100, 85)) == [1, 2, 3, 4, 5]
    assert s.counters() == {"od_ejections": 5, "od_ejections_failure_percentage": 5}


def test_max_percent_bounds_it() -> None:
    s = Rates(max_percent=40, **PERCENT)
    assert len(s.interval(*[(50, 50)] * 5)) == 2 == s.ejected
    assert s.counters()["od_overflow"] == 3


def test_settings_of_ones_own() -> None:
    s = Rates(2, failure_percentage={"percent": 10, "hosts": 2, "volume": 10})
    assert s.interval((10, 0), (10, 1)) == [2]
    s = Rates(3, success_rate={"hosts": 3, "volume": 10, "stdev_milli": 1000})
    assert s.interval((10, 0), (10, 0), (10, 1)) == [3]


def test_all_workers_count_together_and_a_dead_one_takes_nothing_away() -> None:
    s = Rates(workers=3, **RATE)
    for worker in range(3):
        for port in s.cells:
            s.workers[worker].attempts(s.cells[port], 34, 34 if port == 2 else 0)
    s.segment.reap(1)
    assert s.end() == [2]
    assert clusters.verdict(s.segment, s.cells[1])["rate_requests"] == 102
    s.segment.reap(0)
    # the next interval begins at what there was, not at nothing
    assert s.interval(*[(7, 1)] * 5, worker=1) == [2]
    assert clusters.verdict(s.segment, s.cells[1])["rate_requests"] == 7
    assert clusters.verdict(s.segment, s.cells[1])["rate_failures"] == 1


def test_an_interval_is_judged_by_itself() -> None:
    s = Rates(**PERCENT)
    for _ in range(5):
        assert s.interval(*[(40, 40)] * 5) == []


def test_what_came_before_rates_were_asked_for_is_not_judged() -> None:
    s = Setup(5, consecutive_5xx=0)
    for port in s.cells:
        s.workers[0].attempts(s.cells[port], 1000, 1000 if port == 1 else 0)
    s.result(2, OK)
    made = cluster("c", 1, 2, 3, 4, 5, outlier={"max_percent": 100, "consecutive_5xx": 0, **RATE})
    frozen = Frozen(pack(config(clusters=[made]), s.map))
    one = Balancer(frozen, s.views[0], 1)
    for _ in range(3):
        s.now += INTERVAL
        one.result("c", s.cells[2], OK, now=s.now)
    assert s.state(1)["ejected_until"] == 0 and s.counters() == {}


@pytest.mark.parametrize(("seconds", "out"), [(10, [1]), (40, [1]), (41, [])])
def test_an_interval_long_past_is_not_judged(seconds: int, out: list[int]) -> None:
    """The ejection for it (30 s) would be over."""
    assert Rates(**RATE).interval((100, 100), *[(100, 0)] * 4, seconds=seconds) == out


def test_who_is_ejected_is_not_counted_among_the_others() -> None:
    s = Rates(6, **RATE)
    assert s.interval((100, 100), *[(100, 0)] * 5) == [1]
    # with the first one in it, 50 were not far enough from the mean
    assert s.interval((100, 100), (100, 50), *[(100, 0)] * 4) == [1, 2]


@pytest.mark.parametrize("kind", [E5XX, GATEWAY, LOCAL])
@pytest.mark.parametrize(("outlier", "reason"), [(RATE, "success_rate"), (PERCENT, "failure_percentage")])
@pytest.mark.parametrize("split", [False, True])
def test_a_probe_decides_of_these_too(kind: int, outlier: dict[str, Any], reason: str, split: bool) -> None:
    s = Rates(split=split, consecutive_local=0, **outlier)
    assert s.interval((100, 100), *[(100, 0)] * 4) == [1]
    s.now = s.state(1)["ejected_until"]
    assert s.probe() == 1
    s.result(1, kind, probe=True)
    assert s.until(1) == 60 and s.counters()[f"od_ejections_{reason}"] == 2
    s.now = s.state(1)["ejected_until"]
    assert s.probe() == 1
    s.result(1, OK, probe=True)
    assert s.out() == [] and s.ejected == 0


def test_consecutive_errors_eject_beside_rates() -> None:
    s = Rates(consecutive_5xx=5, **RATE)
    s.result(1, E5XX, 5)
    assert s.out() == [1] and s.counters()["od_ejections_5xx"] == 1


def test_however_short_the_interval_rates_rest_a_hundred_times_what_they_cost() -> None:
    s = Rates(100, interval_ms=1, failure_percentage={"volume": 1})
    s.workers[0].attempts(s.cells[1], 1, 1)
    s.now += 5000 * 100 - 1
    s.result(2, OK)
    assert s.state(1)["rate_requests"] == 0
    s.now += 1_000_000
    s.result(2, OK)
    assert s.state(1)["rate_requests"] == 1


SHARES = st.lists(st.tuples(st.integers(0, 400), st.floats(0, 1)), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(SHARES, st.integers(1, 8), st.integers(1, 200), st.integers(1, 3000), st.booleans())
def test_as_envoy_says(
    shares: list[tuple[int, float]], hosts: int, volume: int, factor: int, percentage: bool
) -> None:
    came = [(n, int(n * share)) for n, share in shares]
    rates = {i: 100.0 * (n - bad) / n for i, (n, bad) in enumerate(came, 1) if n >= volume}
    if percentage:
        threshold = factor % 100 + 1
        s = Rates(len(came), failure_percentage={"hosts": hosts, "volume": volume, "percent": threshold})
        want = [i for i, rate in rates.items() if 100.0 - rate >= threshold]
    else:
        s = Rates(len(came), success_rate={"hosts": hosts, "volume": volume, "stdev_milli": factor})
        low = fmean(rates.values()) - pstdev(rates.values()) * factor / 1000 if rates else 0
        want = [i for i, rate in rates.items() if rate < low - 1e-9]
        if any(abs(rate - low) < 1e-6 for rate in rates.values()):
            return  # which side of the line a rounding falls on is nobody's
    assert s.interval(*came) == (want if len(rates) >= hosts else [])
