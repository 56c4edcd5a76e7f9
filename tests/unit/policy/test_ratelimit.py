"""Token buckets: what passes against the definition, buckets that workers share, and the table of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shim.policy_shim import PROBES, Limiter
from shim.shm_shim import WorkerView

from fastmesh._core.shm.segment import Segment

MS = 1_000_000
S = 1000 * MS
NOW = 10**15
LONG_MS = 2**32 - 1


def limiters(workers: int = 1, segment: Segment | None = None, **limit: int) -> list[Limiter]:
    segment = segment or Segment.create(workers)
    return [Limiter(WorkerView(segment, i), **limit) for i in range(workers)]


def until_refused(limiter: Limiter, now: int, caller: int = 0) -> int:
    n = 0
    while limiter.take(now, caller)[0]:
        n += 1
    return n


limits = st.fixed_dictionaries(
    {"most": st.integers(1, 1000), "fill": st.integers(1, 1000), "fill_ms": st.integers(50, 100_000)}
)


@given(
    limits,
    st.lists(st.tuples(st.integers(0, 3 * S), st.integers(0, 3), st.integers(1, 40)), max_size=60),
)
def test_what_passes_is_the_definitions(limit: dict[str, int], steps: list[tuple[int, int, int]]) -> None:
    """(time since the last requests, the worker that gets them, how many): a bucket of real numbers says what
    passes, but for what rounding a token up to whole nanoseconds costs."""
    shared = limiters(4, **limit)
    token = Fraction(limit["fill_ms"] * MS, limit["fill"])
    rounded = -(-limit["fill_ms"] * MS // limit["fill"])
    now, at, tokens, exact = NOW, NOW, Fraction(limit["most"]), Fraction(limit["most"])
    for since, worker, n in steps:
        now += since
        for _ in range(n):
            tokens = min(Fraction(limit["most"]), tokens + Fraction(now - at, rounded))
            exact = min(Fraction(limit["most"]), exact + (now - at) / token)
            at = now
            passed, left, full, wait = shared[worker].take(now)
            assert passed == (tokens >= 1)
            if passed:
                tokens -= 1
                exact -= 1
                assert wait == 0
            else:
                assert wait == (1 - tokens) * rounded and left == 0
            assert left == int(tokens) and full == (limit["most"] - tokens) * rounded
            assert exact >= 0, "more than was asked for"


@given(
    limits,
    st.lists(st.tuples(st.integers(-5 * S, 5 * S), st.integers(0, 3)), min_size=1, max_size=200),
)
def test_never_more_than_most_and_what_time_fills(
    limit: dict[str, int], steps: list[tuple[int, int]]
) -> None:
    """Whatever order the workers' clocks are in."""
    shared = limiters(4, **limit)
    passed = [NOW + at for at, worker in steps if shared[worker].take(NOW + at)[0]]
    span = max(passed) - min(passed)
    assert passed and len(passed) <= limit["most"] + span * limit["fill"] // (limit["fill_ms"] * MS)


@given(limits)
def test_an_empty_bucket_is_full_after_its_time(limit: dict[str, int]) -> None:
    (limiter,) = limiters(**limit)
    assert until_refused(limiter, NOW) == limit["most"]
    _, _, full, wait = limiter.take(NOW)
    assert not limiter.take(NOW + wait - 1)[0] and limiter.take(NOW + wait)[0]
    assert until_refused(limiter, NOW + full + wait) == limit["most"]


@pytest.mark.parametrize(
    "limit",
    [
        {"most": 1_000_000_000, "fill": 1_000_000_000, "fill_ms": LONG_MS},
        {"most": 7, "fill": 1, "fill_ms": LONG_MS},
        {"most": 1_000_000_000, "fill": 1_000_000, "fill_ms": 1000},
        {"most": 2**32 - 1, "fill": 2**32 - 1, "fill_ms": LONG_MS},
    ],
)
@pytest.mark.parametrize("now", [1, NOW, 2**60])
def test_the_largest_numbers_do_not_overflow(limit: dict[str, int], now: int) -> None:
    (limiter,) = limiters(**limit)
    first = limiter.take(now)
    assert first[:2] == (True, limit["most"] - 1)
    n = 1 + limiter.hammer(now, min(limit["most"], 10_000))
    assert n == min(limit["most"], 10_001)
    assert limiter.take(now)[1] == max(0, limit["most"] - n - 1)


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 3)), min_size=1, max_size=300))
def test_a_caller_takes_no_tokens_of_another(steps: list[tuple[int, int]]) -> None:
    shared = limiters(4, most=5, fill=1, fill_ms=1000)
    passed: dict[int, int] = {}
    asked: dict[int, int] = {}
    for caller, worker in steps:
        asked[caller] = asked.get(caller, 0) + 1
        passed[caller] = passed.get(caller, 0) + shared[worker].take(NOW, caller)[0]
    assert passed == {caller: min(5, n) for caller, n in asked.items()}


def test_limits_that_differ_by_id_have_buckets_of_their_own() -> None:
    segment = Segment.create(1)
    (one,) = limiters(segment=segment, most=3, fill=3, fill_ms=1000, id=1)
    (two,) = limiters(segment=segment, most=3, fill=3, fill_ms=1000, id=2)
    assert until_refused(one, NOW) == until_refused(two, NOW) == 3


@given(limits, st.integers(0, 5))
def test_what_is_given_back_can_be_taken_again(limit: dict[str, int], n: int) -> None:
    (limiter,) = limiters(**limit)
    taken = sum(limiter.take(NOW)[0] for _ in range(n + 1))
    for _ in range(taken):
        limiter.give_back()
    assert until_refused(limiter, NOW) == limit["most"]


def test_giving_back_to_nobody_gives_nobody_anything() -> None:
    (limiter,) = limiters(most=2, fill=1, fill_ms=1000)
    limiter.give_back()
    assert until_refused(limiter, NOW) == 2
    limiter.give_back(7)
    assert not limiter.take(NOW)[0]


# ---- the table ---------------------------------------------------------------------------------------


def same_set(limiter: Limiter, n: int) -> list[int]:
    """Callers whose buckets lie in the same places."""
    wanted = limiter.key(1) & 0xFFFF & -PROBES
    found = [1]
    caller = 2
    while len(found) < n:
        if limiter.key(caller) & 0xFFFF & -PROBES == wanted:
            found.append(caller)
        caller += 1
    return found


@pytest.fixture(scope="module")
def crowd() -> list[int]:
    (limiter,) = limiters(most=2, fill=1, fill_ms=1000)
    return same_set(limiter, PROBES + 2)


def test_a_bucket_that_is_full_makes_room(crowd: list[int]) -> None:
    segment = Segment.create(1)
    (limiter,) = limiters(segment=segment, most=2, fill=1, fill_ms=1000)
    for i, caller in enumerate(crowd[:PROBES]):
        assert until_refused(limiter, NOW + i, caller) == 2
    late = NOW + 2 * S  # the first is full again, and it only
    assert until_refused(limiter, late, crowd[PROBES]) == 2
    assert segment.counters()["rl_evicted"] == 0
    assert [limiter.take(late, caller)[1] for caller in crowd[1:PROBES]] == [0] * (PROBES - 1)


def test_the_bucket_nearest_to_full_is_given_up(crowd: list[int]) -> None:
    segment = Segment.create(1)
    (limiter,) = limiters(segment=segment, most=2, fill=1, fill_ms=1000)
    for caller in crowd[:PROBES]:
        assert until_refused(limiter, NOW, caller) == 2
    limiter.give_back(crowd[3])
    assert until_refused(limiter, NOW, crowd[PROBES]) == 2
    assert segment.counters()["rl_evicted"] == 1
    others = [caller for caller in crowd[: PROBES + 1] if caller != crowd[3]]
    assert not any(limiter.take(NOW, caller)[0] for caller in others)
    assert until_refused(limiter, NOW, crowd[3]) == 2, "it begins anew"
    assert segment.counters()["rl_evicted"] == 2


@pytest.mark.parametrize("beyond", [1, 11_000 * MS, LONG_MS * MS])
def test_a_time_that_no_bucket_of_this_limit_has_does_not_last(beyond: int) -> None:
    """A place that is taken over in the moment in which it is used may keep its last owner's time."""
    (limiter,) = limiters(most=2, fill=1, fill_ms=1000)
    assert until_refused(limiter, NOW) == 2
    limiter.spoil(limiter.key(), NOW + 2 * S + beyond)
    assert until_refused(limiter, NOW) == (0 if beyond == 1 else 2)


def run_all(work: Callable[[Limiter], None], shared: list[Limiter]) -> None:
    threads = [threading.Thread(target=work, args=(limiter,)) for limiter in shared]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("most", [1, 10, 5000])
def test_workers_at_the_same_time_let_exactly_most_pass(most: int) -> None:
    shared = limiters(4, most=most, fill=1, fill_ms=LONG_MS // most)
    passed: list[int] = []
    run_all(lambda limiter: passed.append(limiter.hammer(NOW, 5000)), shared)
    assert sum(passed) == most


def test_many_callers_at_the_same_time_each_get_their_own() -> None:
    shared = limiters(4, most=3, fill=1, fill_ms=LONG_MS)
    callers = range(1, 200)
    passed: dict[int, int] = dict.fromkeys(callers, 0)
    lock = threading.Lock()

    def work(limiter: Limiter) -> None:
        for caller in callers:
            n = limiter.hammer(NOW, 3, caller)
            with lock:
                passed[caller] += n

    run_all(work, shared)
    assert passed == dict.fromkeys(callers, 3)
