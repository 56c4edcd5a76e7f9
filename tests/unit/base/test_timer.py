"""base/timer against a list of times: never early, never late, whatever is armed, moved or deleted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shim import base_shim as shim

TICK = 4
REACH = 64**4 * TICK  # beyond it a timer waits at the wheel's end and is linked again

TIMES = st.one_of(
    st.integers(0, 300),
    st.integers(0, 20_000),
    st.builds(lambda level, off: (64**level + off) * TICK, st.integers(1, 3), st.integers(-1, 1)),
    st.integers(0, 3 * REACH),
)
STARTS = st.one_of(st.integers(0, 5000), st.integers(0, 2**44))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arm"), st.integers(0, 19), TIMES),
        st.tuples(st.just("del"), st.integers(0, 19), st.just(0)),
        st.tuples(st.just("run"), st.just(0), TIMES),
    ),
    max_size=60,
)


def tick_of(when: int) -> int:
    return -(-when // TICK)


class Oracle:
    """Timers as a dict of ticks."""

    def __init__(self, now: int) -> None:
        self.tick = now // TICK
        self.due: dict[int, int] = {}

    def arm(self, i: int, when: int) -> None:
        self.due[i] = max(tick_of(when), self.tick + 1)

    def run(self, now: int) -> list[tuple[int, int]]:
        """(tick, timer) of what is due, sorted by tick."""
        self.tick = max(self.tick, now // TICK)
        fired = sorted((tick, i) for i, tick in self.due.items() if tick <= self.tick)
        for _, i in fired:
            del self.due[i]
        return fired


@given(STARTS, STEPS)
def test_the_wheel_fires_what_a_sorted_list_would(start: int, steps: list[tuple[str, int, int]]):
    shim.begin(start)
    oracle, now = Oracle(start), start
    for step, i, amount in steps:
        if step == "arm":
            shim.arm(i, now + amount)
            oracle.arm(i, now + amount)
        elif step == "del":
            shim.disarm(i)
            oracle.due.pop(i, None)
        else:
            now += amount
            due_before = dict(oracle.due)
            wanted = oracle.run(now)
            fired = shim.run(now)
            assert sorted(fired) == sorted(i for _, i in wanted)
            ticks = [due_before[i] for i in fired]
            assert ticks == sorted(ticks), "an earlier one fires first"
        assert shim.armed_count() == len(oracle.due)
        assert all(shim.armed(i) == (i in oracle.due) for i in range(20))
        wait = shim.wait(now, 1_000_000)
        if oracle.due:
            assert now + wait <= max(min(oracle.due.values()) * TICK, now), "it would sleep over one"
    shim.run(now + 4 * REACH)
    assert shim.armed_count() == 0


@given(STARTS, TIMES)
def test_a_wait_ends_and_its_timer_fires(start: int, after: int):
    shim.begin(start)
    shim.arm(0, start + after)
    now, turns = start, 0
    while not shim.run(now):
        wait = shim.wait(now, 10**9)
        now += max(wait, 1)
        turns += 1
        assert turns < 20, "it wakes for nothing"
    assert now >= start + after
    assert now - (start + after) <= TICK


PLANS = st.tuples(st.integers(0, 2000), st.integers(0, 2), st.integers(0, 15), st.integers(0, 500))


@given(STARTS, st.lists(PLANS, min_size=16, max_size=16))
def test_callbacks_arm_move_and_delete_others(start: int, plans: list[tuple[int, int, int, int]]):
    shim.begin(start)
    for i, (after, kind, other, later) in enumerate(plans):
        shim.arm(i, start + after)
        shim.deed(i, kind, other, later)
    oracle = Oracle(start)
    for i, (after, _, _, _) in enumerate(plans):
        oracle.arm(i, start + after)
    done = dict(enumerate(plans))
    for now in range(start, start + 6000, 7):
        fired = shim.run(now)
        oracle.tick = max(oracle.tick, now // TICK)
        for i in fired:
            assert oracle.due.pop(i) <= oracle.tick, "fired without being due"
            _, kind, other, later = done.pop(i, (0, 0, 0, 0))
            if kind == 1:
                oracle.due.pop(other, None)
            elif kind == 2:
                oracle.due[other] = tick_of(now + later)
        # what a callback arms for now or before fires at the next run, at the latest
        assert all(tick >= oracle.tick for tick in oracle.due.values()), "one that is due has not fired"
    assert shim.armed_count() == 0 == len(oracle.due)


def test_timers_of_one_slot_survive_the_deletion_of_their_neighbours():
    shim.begin(0)
    for i in range(100):
        shim.arm(i, 1000)
    shim.deed(0, 1, 1, 0)
    shim.deed(2, 1, 99, 0)
    shim.deed(3, 2, 3, 0)
    assert shim.run(1000) == [0, *range(2, 99)]
    assert shim.armed(3) and shim.run(1004) == [3]


def test_an_idle_wheel_jumps_over_years():
    shim.begin(0)
    assert shim.wait(0, 1000) == 1000
    assert shim.run(2**45) == []
    shim.arm(0, 2**45 + 8)
    assert shim.run(2**45 + 4) == []
    assert shim.run(2**45 + 8) == [0]
