"""policy/outlier: when an endpoint is ejected, for how long, and how it comes back, over all workers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shim.policy_shim import Balancer
from shim.shm_shim import Frozen, WorkerView

from fastmesh._core.shm import clusters
from fastmesh._core.shm.segment import Segment
from fastmesh.compile.cells import CellMap
from fastmesh.compile.snapshot import pack
from helpers.irconf import cluster, config
from helpers.outlier import E5XX, GATEWAY, LOCAL, NOW, OK, S, Setup

BASE = 30 * S
ALL = ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "PEAK_EWMA"]


@pytest.mark.parametrize(
    ("outlier", "kind", "n", "reason"),
    [
        ({}, E5XX, 5, "5xx"),
        ({}, GATEWAY, 5, "5xx"),
        ({}, LOCAL, 5, "5xx"),
        ({"consecutive_5xx": 1}, E5XX, 1, "5xx"),
        ({"consecutive_gateway": 3}, GATEWAY, 3, "gateway"),
        ({"consecutive_gateway": 3}, LOCAL, 3, "gateway"),
        ({"consecutive_gateway": 3}, E5XX, 5, "5xx"),
        ({"consecutive_5xx": 0, "consecutive_gateway": 2}, GATEWAY, 2, "gateway"),
        ({"split": True}, LOCAL, 5, "local"),
        ({"split": True, "consecutive_local": 2, "consecutive_gateway": 1}, LOCAL, 2, "local"),
        ({"split": True}, GATEWAY, 5, "5xx"),
    ],
)
def test_so_many_in_a_row_eject(outlier: dict[str, Any], kind: int, n: int, reason: str) -> None:
    s = Setup(**outlier)
    s.result(1, kind, n - 1)
    assert s.until(1) == 0 and s.ejected == 0
    s.result(1, OK)
    s.result(1, kind, n - 1)
    assert s.until(1) == 0
    s.result(1, kind)
    assert s.until(1) == 30 and s.ejected == 1
    assert s.counters() == {"od_ejections": 1, f"od_ejections_{reason}": 1}
    assert s.picks() == {2: 50}


@pytest.mark.parametrize(
    ("outlier", "kind"),
    [
        ({"consecutive_5xx": 0}, E5XX),
        ({"consecutive_5xx": 0}, LOCAL),
        ({"consecutive_5xx": 0, "consecutive_gateway": 2}, E5XX),
        ({"split": True, "consecutive_local": 0, "consecutive_gateway": 1}, LOCAL),
        ({"max_percent": 0}, E5XX),
    ],
)
def test_what_is_off_ejects_nobody(outlier: dict[str, Any], kind: int) -> None:
    s = Setup(**outlier)
    s.result(1, kind, 100)
    assert s.until(1) == 0 and "od_ejections" not in s.counters()


def test_without_outlier_detection_nothing_is_counted() -> None:
    segment = Segment.create(1)
    frozen = Frozen(pack(config(clusters=[cluster("c", 1)]), CellMap(segment)))
    one = Balancer(frozen, WorkerView(segment, 0), 1)
    cell = next(iter(one.cells("c").values()))
    for kind in (E5XX, GATEWAY, LOCAL):
        for _ in range(50):
            one.result("c", cell, kind, now=NOW)
    assert set(clusters.verdict(segment, cell).values()) == {0}


def test_a_5xx_that_is_no_gateway_error_ends_the_row_of_those() -> None:
    s = Setup(consecutive_5xx=0, consecutive_gateway=3)
    for _ in range(10):
        s.result(1, GATEWAY, 2)
        s.result(1, E5XX)
    assert s.until(1) == 0


def test_an_answer_ends_the_row_of_local_failures_whatever_it_says() -> None:
    s = Setup(split=True, consecutive_5xx=0, consecutive_local=3)
    for _ in range(10):
        s.result(1, LOCAL, 2)
        s.result(1, E5XX)
    assert s.until(1) == 0


def test_workers_count_together_and_share_the_verdict() -> None:
    s = Setup(workers=3)
    for worker in (0, 1, 2, 0, 1):
        s.result(1, E5XX, worker=worker)
    for worker in range(3):
        assert {s.pick(worker)[0] for _ in range(20)} == {2}


@pytest.mark.parametrize("lb", ALL)
def test_one_request_of_all_workers_finds_out(lb: str) -> None:
    s = Setup(workers=2, lb=lb)
    s.result(1, E5XX, 5)
    s.now += BASE - 1
    assert s.picks() == {2: 50}
    s.now += 1
    assert s.probe(worker=1) == 1
    for worker in range(2):
        assert {s.pick(worker) for _ in range(50)} == {(2, False)}
    s.result(1, OK, worker=1, probe=True)
    assert s.until(1) == 0 and s.ejected == 0 and s.picks(200)[1] > 0
    assert s.counters()["od_probe_ok"] == 1


def test_a_bad_probe_ejects_again_for_longer_up_to_a_limit() -> None:
    s = Setup(base_ms=30_000)
    s.result(1, E5XX, 5)
    for times in range(2, 14):
        s.now = s.state(1)["ejected_until"]
        assert s.probe() == 1
        s.result(1, E5XX, probe=True)
        assert s.until(1) == min(30 * times, 300)
    assert s.ejected == 1 and s.counters()["od_probe_fail"] == 12
    assert s.state(1)["ejections"] == 10


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 600), st.integers(1, 40), st.integers(1, 12))
def test_an_ejection_lasts_base_times_how_often_up_to_the_most(base: int, times: int, rounds: int) -> None:
    """Seconds of base, most as a multiple of it; each probe is bad. Never longer than the most."""
    s = Setup(base_ms=base * 1000, most_ms=base * times * 1000)
    s.result(1, E5XX, 5)
    for ejections in range(1, rounds + 1):
        assert s.until(1) == base * min(ejections, times)
        s.now = s.state(1)["ejected_until"] - 1
        assert not any(s.pick() == (1, probe) for probe in (False, True) for _ in range(10))
        s.now += 1
        assert s.probe() == 1
        s.result(1, E5XX, probe=True)


def test_one_good_interval_forgives_one_ejection() -> None:
    s = Setup(base_ms=1000, interval_ms=5000)
    s.result(1, E5XX, 5)
    for _ in range(3):
        s.now = s.state(1)["ejected_until"]
        assert s.probe() == 1
        s.result(1, E5XX, probe=True)
    assert s.state(1)["ejections"] == 4
    s.now = s.state(1)["ejected_until"]
    s.probe()
    s.result(1, OK, probe=True)
    s.now += 4 * S
    s.result(2, OK)  # it is back for less than an interval
    assert s.state(1)["ejections"] == 4
    for left in (3, 2, 1, 0, 0):
        s.now += 5 * S
        s.result(2, OK, 3)
        assert s.state(1)["ejections"] == left


def test_a_probe_that_is_lost_is_taken_again() -> None:
    s = Setup(workers=2)
    s.result(1, E5XX, 5)
    s.now += BASE
    assert s.probe(0) == 1
    s.segment.reap(0)  # it has died
    assert {s.pick(1)[0] for _ in range(50)} == {2}
    s.now += BASE
    assert s.probe(1) == 1
    # what comes so late says nothing any more
    s.result(1, OK, worker=0, probe=True)
    assert s.until(1) == 30
    s.result(1, OK, worker=1, probe=True)
    assert s.until(1) == 0


def test_a_probe_without_a_result_goes_to_the_next_request() -> None:
    s = Setup()
    s.result(1, E5XX, 5)
    s.now += BASE
    assert s.probe() == 1
    s.workers[0].release(s.cells[1], s.now)
    assert s.probe() == 1


def test_requests_sent_before_the_ejection_say_nothing() -> None:
    s = Setup()
    s.result(1, E5XX, 5)
    s.result(1, OK)
    s.result(1, E5XX, 20)
    assert s.until(1) == 30 and s.state(1)["ejections"] == 1 and s.state(1)["in_row_5xx"] == 0


@pytest.mark.parametrize("lb", ALL)
def test_when_all_are_ejected_there_is_none(lb: str) -> None:
    s = Setup(3, lb=lb)
    for port in s.cells:
        s.result(port, E5XX, 5)
    assert s.picks() == {None: 50}
    s.now += BASE
    assert sorted(s.probe() for _ in range(3)) == [1, 2, 3]
    assert s.picks() == {None: 50}


def test_the_one_to_be_avoided_is_better_than_one_that_is_ejected() -> None:
    s = Setup()
    s.result(1, E5XX, 5)
    assert s.workers[0].attempt("c", tried=[s.cells[2]], now=s.now) == ("127.0.0.1:2", False)


@pytest.mark.parametrize("lb", ALL)
def test_with_too_few_left_all_are_used(lb: str) -> None:
    s = Setup(4, lb=lb, min_health_percent=50)
    s.result(1, E5XX, 5)
    s.result(2, E5XX, 5)
    assert set(s.picks(300)) == {3, 4}  # 50 % are not fewer than 50 %
    s.result(3, E5XX, 5)
    assert set(s.picks(400)) == {1, 2, 3, 4}
    s.now += BASE  # and probes are made as before
    found = {s.probe() for _ in range(3)}
    assert found == {1, 2, 3}
    for port in found:
        s.result(port, OK, probe=True)
    assert s.ejected == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 100))
def test_no_more_than_max_percent_are_ejected_but_always_one(endpoints: int, percent: int) -> None:
    s = Setup(endpoints, max_percent=percent)
    for port in s.cells:
        s.result(port, E5XX, 5)
    # as Envoy: while the share of those that are ejected is below
    most = min(endpoints, -(-endpoints * percent // 100))
    assert sum(s.until(port) > 0 for port in s.cells) == most == s.ejected
    assert s.counters().get("od_overflow", 0) == endpoints - most


def test_ejections_of_endpoints_that_are_gone_do_not_count() -> None:
    s = Setup(4, max_percent=50)
    s.result(1, E5XX, 5)
    s.result(2, E5XX, 5)
    smaller = cluster("c", 2, 3, 4, 5, lb="RANDOM", outlier={"max_percent": 50})
    frozen = Frozen(pack(config(clusters=[smaller]), s.map))
    one = Balancer(frozen, s.views[0], 3)
    for _ in range(5):
        one.result("c", s.cells[3], E5XX, now=s.now)
    assert s.until(3) == 30 and s.ejected == 2


STEPS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(1, 3),
        st.sampled_from([OK, OK, E5XX, GATEWAY, LOCAL]),
        st.integers(0, 20),
    ),
    max_size=150,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(1, 4), st.booleans())
def test_whatever_happens_the_books_are_right(
    steps: list[tuple[int, int, int, int]], threshold: int, split: bool
) -> None:
    """(worker, answers wanted, result, seconds): requests go where they are sent, and end as it is drawn."""
    s = Setup(
        3, workers=2, consecutive_5xx=threshold, split=split, consecutive_local=threshold, base_ms=10_000
    )
    for worker, n, kind, seconds in steps:
        s.now += seconds * S
        for _ in range(n):
            before = {p: s.state(p)["ejected_until"] for p in s.cells}
            port, probe = s.pick(worker)
            if port is None:
                assert all(until > s.now for until in before.values())
                continue
            assert before[port] <= s.now and probe == (before[port] != 0)
            s.result(port, kind, worker=worker, probe=probe)
            if probe:
                assert (s.until(port) > 0) == (kind != OK)
        out = [p for p in s.cells if s.state(p)["ejected_until"]]
        assert s.ejected == len(out)
        for port in s.cells:
            assert s.until(port) <= 300 and s.state(port)["in_row_5xx"] < threshold
