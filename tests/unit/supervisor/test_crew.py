"""supervisor/crew.py: when a worker is replaced, with a clock and forks of the test's own."""

from __future__ import annotations

import os
from typing import Any

import pytest

from fastmesh.supervisor import crew as module
from fastmesh.supervisor.crew import Crew
from fastmesh.supervisor.log import Log


class World:
    """Time, forks and signals, as the crew sees them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.forks: list[float] = []
        self.killed: list[int] = []
        self.fork_fails = False
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module, "fork", self.fork)
        monkeypatch.setattr(module.os, "kill", lambda pid, number: self.killed.append(pid))

    def fork(self, name: str, unblocked: bool, run: Any, log: Log) -> int:
        if self.fork_fails:
            raise OSError(11, "Resource temporarily unavailable")
        self.forks.append(self.now)
        return 100 + len(self.forks)


class Segment:
    def __init__(self) -> None:
        self.state = {"state": 2, "seen_gen": 1, "heartbeat_ns": 0}
        self.calls: list[tuple[Any, ...]] = []

    def worker(self, row: int) -> dict[str, int]:
        return self.state

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.calls.append((name, *args))


class Sockets:
    fds = ((),)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def crew(world: World) -> Crew:
    made = Crew(Segment(), Sockets(), 4, lambda *a: 0, {}, Log("t", fd=-1), lambda crew: None)  # type: ignore[arg-type]
    made.start()
    return made


SIGSEGV = 11


def crash(crew: Crew) -> None:
    (pid,) = crew.pids()
    assert crew.ended(pid, SIGSEGV)


def test_the_first_crashes_are_answered_at_once_later_ones_with_growing_waits(
    crew: Crew, world: World
) -> None:
    waits = []
    for _ in range(9):
        crash(crew)
        due = crew.next_due()
        assert due is not None
        waits.append(round(due - world.now, 3))
        world.now = due
        crew.tend()
        assert len(crew.pids()) == 1
    assert waits == [0, 0, 0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert crew.crash_loop() == ""
    crash(crew)
    assert crew.crash_loop() == "worker 0 crashed 10 times within 30 s"


def test_crashes_far_apart_are_forgotten(crew: Crew, world: World) -> None:
    for _ in range(50):
        crash(crew)
        assert crew.next_due() == world.now
        crew.tend()
        world.now += 11
    assert crew.crash_loop() == ""


def test_the_dead_row_is_cleaned_before_the_next_has_it(crew: Crew) -> None:
    crash(crew)
    crew.tend()
    assert [call for call in crew.segment.calls if call[0] in ("prepare", "reap")] == [
        ("prepare", 4), ("reap", 4), ("prepare", 4),
    ]  # fmt: skip


def test_a_fork_that_fails_is_tried_again(crew: Crew, world: World) -> None:
    crash(crew)
    world.fork_fails = True
    crew.tend()
    assert crew.pids() == []
    world.fork_fails = False
    due = crew.next_due()
    assert due is not None and due > world.now
    world.now = due
    crew.tend()
    assert len(crew.pids()) == 1


def test_only_a_clock_that_stands_still_for_long_is_a_hang(crew: Crew, world: World) -> None:
    for beat in range(20):
        crew.segment.state["heartbeat_ns"] = beat // 4  # moves, though slowly
        crew.look()
    assert world.killed == []
    for _ in range(10):
        crew.look()
    assert world.killed[0] == crew.pids()[0]
    assert ("wake_worker", 4) in crew.segment.calls


def test_who_leaves_is_not_replaced_and_is_killed_when_overdue(crew: Crew, world: World) -> None:
    crew.drain(5)
    (order,) = [call for call in crew.segment.calls if call[0] == "order"]
    assert order == ("order", 4, 1, int(1005 * 1e9))
    due = crew.next_due()
    assert due is not None and due > 1005
    world.now = due
    crew.tend()
    assert world.killed == crew.pids()
    assert crew.ended(crew.pids()[0], 9)
    assert crew.next_due() is None
    crew.tend()
    assert len(world.forks) == 1


def test_children_of_others_are_none_of_its_business(crew: Crew) -> None:
    assert not crew.ended(99999, 0)
    assert len(crew.pids()) == 1


def test_the_process_is_named_and_a_child_ends_with_what_it_returns() -> None:
    reader, writer = os.pipe()

    def run() -> int:
        with open("/proc/self/comm") as file:
            os.write(writer, file.read().encode())
        return 7

    pid = module.fork("a-name-that-is-too-long", True, run, Log("t", fd=-1))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert os.read(reader, 100) == b"a-name-that-is-\n"


def test_a_child_that_raises_ends_with_1() -> None:
    pid = module.fork("t", True, lambda: 1 // 0, Log("t", fd=-1))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
