"""base/pool: caps, live counts, objects that are zeroed, distinct and aligned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shim.base_shim import SLAB, Objects


@given(st.integers(1, 200), st.integers(0, 100), st.lists(st.integers(0, 1000), max_size=300))
def test_gets_and_puts_in_any_order(size: int, cap: int, moves: list[int]):
    pool, live = Objects(size, cap), []
    for move in moves:
        if move % 3 and live:
            pool.put(live.pop(move % len(live)))
        else:
            got = pool.get()
            assert (got is None) == (len(live) == cap)
            if got is not None:
                assert got % 16 == 0
                assert all(abs(got - other) >= size for other in live), "two objects share bytes"
                live.append(got)
        assert pool.live == len(live)
    assert pool.slabs * SLAB <= cap + SLAB
    for one in live:
        pool.put(one)
    assert pool.live == 0


@pytest.mark.parametrize("nth", range(1, 70))
def test_the_nth_get_fails_and_nothing_is_lost(nth: int):
    pool = Objects(48, nth - 1)
    live = [pool.get() for _ in range(nth)]
    assert live[-1] is None and None not in live[:-1]
    assert pool.get() is None
    assert pool.live == nth - 1
    if nth > 1:
        pool.put(live[0])
        assert pool.get() == live[0], "the newest free object is the warmest"


def test_a_pool_grows_by_slabs_only():
    pool = Objects(64, 1000)
    live = [pool.get() for _ in range(SLAB)]
    assert pool.slabs == 1
    live.append(pool.get())
    assert pool.slabs == 2
    for one in live:
        pool.put(one)
    for _ in range(SLAB * 2):
        pool.get()
    assert pool.slabs == 2
