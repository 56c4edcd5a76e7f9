"""policy/retry and the budget of policy/breaker, against plain Python."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from shim.retry_shim import Breaker, backoff_ms
from shim.shm_shim import Frozen

from fastmesh._core.shm.segment import Segment
from helpers.irconf import cluster, config, packed

BITS = st.integers(0, 2**64 - 1)
MS = st.integers(0, 2**32 - 1)


def workers(**limits: Any) -> list[Breaker]:
    frozen = Frozen(packed(config(clusters=[cluster("c", 1, **limits)])))
    assert frozen.check() is None
    segment = Segment.create(3)
    return [Breaker(frozen, segment, i, "c") for i in range(3)]


def span(attempt: int, base: int, most: int) -> int:
    """Envoy's: (2^attempt - 1) * base, at most `most`."""
    return min(most, (2**attempt - 1) * base)


@given(st.integers(1, 40), MS, MS, BITS)
def test_backoff_is_within_its_range(attempt: int, base: int, most: int, bits: int) -> None:
    waited = backoff_ms(attempt, base, most, bits)
    if attempt <= 20:
        assert 0 <= waited < max(1, span(attempt, base, most))
    assert waited < max(1, most) and (base or not waited)


@given(st.integers(1, 2**32 - 1), st.integers(1, 300_000), BITS)
def test_backoff_never_overflows(attempt: int, base: int, bits: int) -> None:
    assert 0 <= backoff_ms(attempt, base, 10 * base, bits) < 10 * base


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(4, 1000), st.integers(0, 2**32))
def test_backoff_has_full_jitter(attempt: int, base: int, seed: int) -> None:
    """From nothing to the whole, evenly: each quarter gets its part, within six standard deviations."""
    rng = random.Random(seed)
    whole = span(attempt, base, 10 * base)
    n = 2000
    waits = [backoff_ms(attempt, base, 10 * base, rng.getrandbits(48)) for _ in range(n)]
    assert len(set(waits)) > 1
    for quarter in range(4):
        low, high = -(-whole * quarter // 4), -(-whole * (quarter + 1) // 4)
        share = (high - low) / whole
        got = sum(low <= wait < high for wait in waits)
        assert abs(got - n * share) <= 6 * (n * share * (1 - share)) ** 0.5 + 1


EVENTS = st.lists(
    st.tuples(st.sampled_from(["new", "new", "retry", "retry", "end"]), st.integers(0, 2), BITS)
)


class Oracle:
    """Requests in flight, each with its worker and whether it is beyond its first attempt."""

    def __init__(self, percent: int, least: int, max_retries: int) -> None:
        self.percent, self.least, self.max_retries = percent, least, max_retries
        self.flying: list[list[Any]] = []

    def may_retry(self) -> bool:
        retrying = sum(beyond for _, beyond in self.flying)
        first = len(self.flying) - retrying
        if self.max_retries and retrying >= self.max_retries:
            return False
        return self.percent == 0 or retrying < max(self.least, first * self.percent // 100)


@settings(max_examples=200, deadline=None)
@given(
    EVENTS, st.sampled_from([0, 20, 20, 50, 100]), st.sampled_from([0, 3, 3, 10]), st.sampled_from([0, 0, 4])
)
def test_the_budget_is_the_oracles(
    events: list[tuple[str, int, int]], percent: int, least: int, max_retries: int
) -> None:
    """20 % of the requests in their first attempt, at least 3: over all workers, whoever asks; one beyond
    its first attempt counts until it ends, back-off included. In the end nothing is in use."""
    used = workers(budget_ppm=percent * 10_000, budget_least=least, max_retries=max_retries, max_requests=0)
    oracle = Oracle(percent, least, max_retries)
    denied = 0
    for what, slot, bits in [
        *events,
        *(("new", i % 3, 0) for i in range(40)),
        *(("retry", 0, i) for i in range(99)),
    ]:
        if what == "new":
            assert used[slot].request()
            oracle.flying.append([slot, False])
        elif what == "retry" and (first := [r for r in oracle.flying if not r[1]]):
            asked = first[bits % len(first)]
            may = oracle.may_retry()
            assert used[asked[0]].retry() == may
            asked[1] = may
            denied += not may
        elif what == "end" and oracle.flying:
            owner, beyond = oracle.flying.pop(bits % len(oracle.flying))
            if beyond:
                used[owner].retry_done()
            used[owner].request_done()
        counts = [worker.counts() for worker in used]
        assert sum(c[0] for c in counts) == len(oracle.flying)
        assert sum(c[1] for c in counts) == sum(beyond for _, beyond in oracle.flying)
    assert sum(worker.counts()[2] for worker in used) == denied
    for owner, beyond in oracle.flying:
        if beyond:
            used[owner].retry_done()
        used[owner].request_done()
    assert [worker.counts()[:2] for worker in used] == [(0, 0)] * 3


@given(st.integers(0, 2000))
def test_what_the_default_budget_comes_to(first: int) -> None:
    """With nothing else said: a fifth of what is in flight, and always three."""
    used = workers(max_requests=0)
    for _ in range(first):
        used[0].request()
    n = 0
    while used[1].request() and used[1].retry():
        n += 1
    # each request that retries was itself asked for first; the last one was refused
    assert n == max(3, first // 5) or n == max(3, (first + 1) // 5)
    for _ in range(n):
        used[1].retry_done()
    for _ in range(n + 1):
        used[1].request_done()
    for _ in range(first):
        used[0].request_done()
