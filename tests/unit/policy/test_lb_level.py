"""policy/lb_level, and policy/lb over levels: shares as Envoy has them, and who gets a request then."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shim.policy_shim import Balancer, shares
from shim.shm_shim import Frozen, WorkerView

from fastmesh._core.proxy import explain
from fastmesh._core.shm.segment import Segment
from fastmesh.commands.explained import CLUSTER
from helpers.irconf import cluster, config, packed, route, vhost
from unit.policy.test_lb import binomial

ALL = ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "PEAK_EWMA"]
SECOND = 10**9
KEYS = range(0, 2**64, 2**64 // 500)


class Setup:
    """A cluster "c" of levels with so many endpoints each; an endpoint's name is (level, number)."""

    def __init__(self, sizes: list[int], lb: str = "ROUND_ROBIN", seed: int = 4711, **more: Any) -> None:
        self.names = {p: (i, k) for i, n in enumerate(sizes) for k in range(n) for p in [1 + i * 2000 + k]}
        made = cluster("c", *self.names, lb=lb, **more)
        for endpoint in made["endpoints"]:
            endpoint["level"] = self.names[endpoint["port"]][0]
        made["endpoints"].reverse()  # packing puts them in order
        frozen = Frozen(packed(config(clusters=[made])))
        assert frozen.check() is None
        self.worker = WorkerView(Segment.create(1), 0)
        self.balancer = Balancer(frozen, self.worker, seed)
        self.cells = {
            self.names[int(text.rpartition(":")[2])]: cell for text, cell in self.balancer.cells("c").items()
        }
        self.now = SECOND
        self.ejected: set[tuple[int, int]] = set()

    def eject(self, *names: tuple[int, int], until: int = 100 * SECOND) -> None:
        for name in names:
            self.worker.eject(self.cells[name], until)
            self.ejected.add(name)
        self.balancer.out("c", len(self.ejected))

    def back(self, *names: tuple[int, int]) -> None:
        self.eject(*names, until=0)
        self.ejected.difference_update(names)
        self.balancer.out("c", len(self.ejected))

    def pick(self, n: int = 1, **more: Any) -> list[tuple[int, int] | None]:
        picked = self.balancer.pick("c", n, now=self.now, **more)
        return [None if text is None else self.names[int(text.rpartition(":")[2])] for text in picked]

    def levels(self, n: int = 1, **more: Any) -> Counter[int | None]:
        return Counter(None if name is None else name[0] for name in self.pick(n, **more))


# (endpoints, usable ones, share) of each level -> what each gets, what they can take
ENVOY = [
    # the table of Envoy's "Priority levels" for two levels of 100
    ([(100, 100, 0), (100, 100, 0)], [100, 0], 100),
    ([(100, 72, 0), (100, 72, 0)], [100, 0], 100),
    ([(100, 71, 0), (100, 71, 0)], [99, 1], 100),
    ([(100, 50, 0), (100, 50, 0)], [70, 30], 100),
    ([(100, 25, 0), (100, 100, 0)], [35, 65], 100),
    ([(100, 25, 0), (100, 25, 0)], [50, 50], 70),
    # ... of three
    ([(100, 100, 0), (100, 100, 0), (100, 100, 0)], [100, 0, 0], 100),
    ([(100, 71, 0), (100, 71, 0), (100, 100, 0)], [99, 1, 0], 100),
    ([(100, 50, 0), (100, 50, 0), (100, 100, 0)], [70, 30, 0], 100),
    ([(100, 25, 0), (100, 100, 0), (100, 100, 0)], [35, 65, 0], 100),
    ([(100, 25, 0), (100, 25, 0), (100, 100, 0)], [35, 35, 30], 100),
    # what rounding leaves is the nearest one's
    ([(100, 25, 0), (100, 25, 0), (100, 20, 0)], [37, 35, 28], 98),
    ([(3, 0, 0), (2, 2, 0)], [0, 100], 100),
    ([(3, 0, 0), (2, 0, 0)], [0, 0], 0),
    # shares: what is left of a level's endpoints takes up to 1.4 times as much
    ([(10, 10, 80), (10, 10, 20)], [8000, 2000], 100),
    ([(10, 8, 80), (10, 8, 20)], [8000, 2000], 100),
    ([(10, 5, 80), (10, 10, 20)], [5600, 2000], 100),
    ([(10, 0, 80), (10, 10, 20)], [0, 2000], 70),
    ([(10, 0, 80), (10, 0, 20)], [0, 0], 0),
]


@pytest.mark.parametrize(("levels", "expected", "available"), ENVOY)
def test_shares_are_envoys(levels: Any, expected: list[int], available: int) -> None:
    assert shares(levels) == (expected, available)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 1)), min_size=1, max_size=16))
def test_shares_by_distance(levels: list[tuple[int, float]]) -> None:
    counted = [(n, int(n * part), 0) for n, part in levels]
    got, available = shares(counted)
    able = [min(100, usable * 140 // n) for n, usable, _ in counted]
    assert available == min(100, sum(able))
    assert sum(got) == (100 if available else 0)
    assert all(not share or can for share, can in zip(got, able, strict=True))
    if available == 100:
        # nothing goes further while a nearer one could take it
        left = 100
        for share, can in zip(got, able, strict=True):
            assert share == min(left, can)
            left -= share


@pytest.mark.parametrize("lb", ALL)
def test_all_well_all_near(lb: str) -> None:
    assert Setup([3, 2, 1], lb).levels(2000) == {0: 2000}


@pytest.mark.parametrize("lb", ALL)
def test_half_of_the_nearest_well_seventy_percent_near(lb: str) -> None:
    s = Setup([4, 3], lb, outlier={})
    s.eject((0, 0), (0, 2))
    got = s.levels(20_000)
    assert binomial(got[0], 20_000, 0.7) and got[0] + got[1] == 20_000
    assert s.pick(2000).count((0, 0)) == 0


@pytest.mark.parametrize("lb", ALL)
def test_near_fails_far_serves_near_returns(lb: str) -> None:
    s = Setup([2, 3, 1], lb, outlier={"max_percent": 100})
    s.eject((0, 0), (0, 1))
    assert s.levels(300) == {1: 300}
    s.eject((1, 0), (1, 1), (1, 2))
    assert s.levels(300) == {2: 300}
    s.eject((2, 0))
    assert s.levels(10) == {None: 10}
    s.back((1, 0))
    assert set(s.pick(300)) <= {(1, 0)}  # a third of the level: no other can take anything
    s.back((0, 0), (0, 1))
    assert s.levels(300) == {0: 300}


def test_a_level_whose_ejections_are_over_gets_a_request_that_finds_out() -> None:
    s = Setup([1, 1], outlier={"max_percent": 100})
    s.eject((0, 0), until=5 * SECOND)
    assert s.levels(20) == {1: 20}
    s.now = 5 * SECOND
    assert s.balancer.attempt("c", now=s.now) == ("127.0.0.1:1", True)
    assert s.levels(20) == {1: 20}  # the others wait for what it finds


def test_what_was_counted_is_kept_for_a_while_and_not_across_changes() -> None:
    s = Setup([2, 1], outlier={"max_percent": 100})
    s.eject((0, 0))
    assert s.levels(2000)[1] > 0
    s.worker.eject(s.cells[(0, 0)], 0)
    s.worker.eject(s.cells[(1, 0)], 100 * SECOND)  # as many as before: not seen at once
    assert s.levels(300) == {0: 300}  # what is ejected is not used all the same
    s.now += SECOND
    assert s.levels(300) == {0: 300}


def test_panic_is_for_when_no_level_can_take_what_is_left() -> None:
    s = Setup([4, 1], "RANDOM", outlier={"max_percent": 100, "min_health_percent": 50})
    s.eject(*((0, k) for k in range(4)))
    assert s.levels(500) == {1: 500}  # a fifth is well, and it can take all
    s.eject((1, 0))
    got = Counter(s.pick(5000))
    assert len(got) == 5 and all(binomial(n, 5000, 0.2) for n in got.values())


@settings(max_examples=40)
@given(
    st.sampled_from(ALL),
    st.lists(st.integers(1, 5), min_size=2, max_size=6),
    st.data(),
    st.integers(1, 2**63),
)
def test_shares_that_config_gives(lb: str, sizes: list[int], data: st.DataObject, seed: int) -> None:
    cuts = data.draw(st.sets(st.integers(1, 99), min_size=len(sizes) - 1, max_size=len(sizes) - 1))
    bounds = [0, *sorted(cuts), 100]
    given_shares = [b - a for a, b in pairwise(bounds)]
    got = Setup(sizes, lb, seed, shares=given_shares).levels(4000)
    for i, share in enumerate(given_shares):
        assert binomial(got[i], 4000, share / 100)


def test_within_a_level_weights_hold() -> None:
    s = Setup([3, 1], "RANDOM", weights=(7, 2, 1, 50))
    got = Counter(s.pick(10_000))
    for k, weight in enumerate([7, 2, 1]):
        assert binomial(got[(0, k)], 10_000, weight / 10)


@pytest.mark.parametrize("lb", ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "PEAK_EWMA"])
def test_a_retry_stays_in_the_nearest_level(lb: str) -> None:
    s = Setup([2, 2], lb)
    near = [s.cells[(0, 0)], s.cells[(0, 1)]]
    assert set(s.pick(50, tried=near[:1])) == {(0, 1)}
    assert set(s.pick(50, tried=near)) == {(0, 1)}  # any but the last


@pytest.mark.parametrize("lb", ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "PEAK_EWMA"])
def test_a_retry_that_may_leaves_a_level_after_two_attempts_or_when_all_were_tried(lb: str) -> None:
    s = Setup([3, 1, 2], lb)
    tried: list[int] = []
    order = []
    for attempt in range(6):
        (name,) = s.pick(tried=tried, remote=attempt)
        assert name is not None
        order.append(name)
        tried.insert(0, s.cells[name])
    assert [level for level, _ in order] == [0, 0, 1, 2, 2, 0]
    assert len(set(order)) == 6
    s = Setup([1, 1], lb)
    assert s.pick(tried=[s.cells[(0, 0)]], remote=1) == [(1, 0)]
    assert s.pick(tried=[s.cells[(1, 0)], s.cells[(0, 0)]], remote=2) == [(0, 0)]


HASH = {"on": "header", "name": "x", "size": 1031}


@pytest.mark.parametrize("lb", ["RING_HASH", "MAGLEV"])
def test_hashing_is_within_the_level_and_keys_stay_where_they_are(lb: str) -> None:
    s = Setup([4, 4], lb, hash=HASH, outlier={"max_percent": 100})
    before = {key: s.pick(key=key)[0] for key in KEYS}
    assert {name[0] for name in before.values() if name} == {0} and len(set(before.values())) == 4
    s.eject((0, 1))  # three of four: the level still takes all
    for key, name in before.items():
        now = s.pick(key=key)[0]
        assert now == name or (name == (0, 1) and now and now[0] == 0)
    s.eject((0, 2))  # half: seven in ten of the keys stay
    half = {key: s.pick(key=key)[0] for key in KEYS}
    assert half == {key: s.pick(key=key)[0] for key in KEYS}
    kept = [key for key, name in half.items() if name and name[0] == 0]
    assert binomial(len(kept), len(KEYS), 0.7)
    s.back((0, 1), (0, 2))
    assert before == {key: s.pick(key=key)[0] for key in KEYS}


@pytest.mark.parametrize("lb", ["RING_HASH", "MAGLEV"])
def test_shares_and_hashing(lb: str) -> None:
    s = Setup([2, 2], lb, hash=HASH, shares=[80, 20])
    got = {key: s.pick(key=key)[0] for key in KEYS}
    assert got == {key: s.pick(key=key)[0] for key in KEYS}
    assert binomial(sum(name[0] == 0 for name in got.values() if name), len(KEYS), 0.8)


def test_endpoints_are_not_counted_for_each_request() -> None:
    """That a pick looks at few of many cells is seen from what it does not notice."""
    s = Setup([1000, 1000], outlier={"max_percent": 100})
    s.eject(*((0, k) for k in range(500)))
    assert s.levels(2000)[1] > 0
    for k in range(500, 900):
        s.worker.eject(s.cells[(0, k)], 100 * SECOND)  # as if others had come back: as many as before
    s.now += 1_000_000
    assert binomial(s.levels(5000)[0], 5000, 0.7)
    s.now += SECOND
    assert binomial(s.levels(5000)[0], 5000, 0.14)


@pytest.mark.parametrize("outlier", [None, {"max_percent": 100, "min_health_percent": 50}])
@pytest.mark.parametrize("lb", ALL)
def test_who_is_unhealthy_counts_as_who_is_ejected(lb: str, outlier: dict[str, Any] | None) -> None:
    health = {"kind": "tcp", "interval_ms": 1000, "timeout_ms": 1000}
    s = Setup([4, 4], lb, health=health, **({"outlier": outlier} if outlier else {}))
    for k in range(2):
        s.balancer.sick("c", s.cells[(0, k)])
    got = Counter(s.pick(10_000))
    assert not {(0, 0), (0, 1)} & got.keys()
    assert binomial(sum(n for name, n in got.items() if name and name[0] == 0), 10_000, 0.7)
    if outlier:
        s.eject((0, 2))  # both together: a quarter is left
        assert binomial(s.levels(10_000)[0], 10_000, 0.35)
    for k in range(2, 4):
        s.balancer.sick("c", s.cells[(0, k)])
    assert s.levels(300) == {1: 300}
    for k in range(4):
        s.balancer.sick("c", s.cells[(1, k)])
    if outlier:
        assert len(set(s.pick(2000))) == 8  # panic
    else:
        assert s.levels(10) == {None: 10}


@pytest.mark.parametrize(
    ("shares", "line"),
    [(None, "2, 1 endpoints, the nearest first"), ([70, 30], "2, 1 endpoints, which get 70 %, 30 %")],
)
@pytest.mark.parametrize("lb", ["RANDOM", "MAGLEV"])
def test_explain_shows_levels(lb: str, shares: list[int] | None, line: str) -> None:
    made = cluster("c", 1, 2, 3, lb=lb, **({"shares": shares} if shares else {}))
    if lb == "MAGLEV":
        made["hash"] = {"on": "header", "name": "x", "size": 1031}
    made["endpoints"][0]["level"] = 1
    found = explain.explain(
        packed(config(vhost(["a"], route()), clusters=[made])),
        "outbound", b"GET / HTTP/1.1\r\nHost: a\r\nx: 1\r\n\r\n", False,
    )  # fmt: skip
    (dest,) = found["action"]["destinations"]
    levels = dest["cluster"]["levels"]
    assert [(level["first"], level["endpoints"], level["share"]) for level in levels] == [
        (0, 2, shares[0] if shares else 0), (2, 1, shares[1] if shares else 0),
    ]  # fmt: skip
    assert CLUSTER["levels"][1](levels, dest["cluster"]) == line
    if lb == "MAGLEV":
        # in the nearest level
        assert dest["hash_endpoint"] in ("127.0.0.1:2", "127.0.0.1:3")
