"""agent/loop.py"""

from __future__ import annotations

import os
import threading

import pytest

from fastmesh.agent.loop import Loop


@pytest.fixture
def errors() -> list[BaseException]:
    return []


@pytest.fixture
def loop(errors: list[BaseException]) -> Loop:
    return Loop(errors.append)


def run(loop: Loop) -> None:
    """Run until stopped, or fail after ten seconds."""
    late = []
    loop.call_later(10, lambda: (late.append(1), loop.stop()))
    loop.run()
    assert not late


def test_timers_fire_in_order_and_can_be_cancelled(loop: Loop) -> None:
    seen: list[str] = []
    loop.call_later(0.03, seen.append, "third")
    loop.call_later(0.01, seen.append, "first")
    loop.call_later(0.02, seen.append, "never").cancel()
    loop.call_later(0.02, seen.append, "second")
    loop.call_later(0.04, loop.stop)
    run(loop)
    assert seen == ["first", "second", "third"]


def test_calls_of_the_same_moment_keep_their_order(loop: Loop) -> None:
    seen: list[int] = []
    for i in range(50):
        loop.call_soon(seen.append, i)
    loop.call_soon(loop.stop)
    run(loop)
    assert seen == list(range(50))


def test_a_timer_that_sets_itself_again_does_not_starve_descriptors(loop: Loop) -> None:
    reader, writer = os.pipe()
    turns = []

    def again() -> None:
        turns.append(1)
        loop.call_soon(again)

    loop.call_soon(again)
    loop.add_reader(reader, loop.stop)
    os.write(writer, b"x")
    run(loop)
    assert len(turns) < 100


def test_readers_and_writers(loop: Loop) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    got: list[bytes] = []

    def readable(limit: int) -> None:
        got.append(os.read(reader, limit))
        assert loop.remove_reader(reader)
        assert not loop.remove_reader(reader)
        loop.stop()

    def writable() -> None:
        assert loop.remove_writer(writer)
        os.write(writer, b"hello")

    loop.add_reader(reader, readable, 100)
    loop.add_writer(writer, writable)
    run(loop)
    assert got == [b"hello"]


def test_a_reader_removed_in_the_same_turn_is_not_called(loop: Loop) -> None:
    pipes = [os.pipe() for _ in range(2)]
    called: list[int] = []

    def readable(mine: int, other: int) -> None:
        called.append(mine)
        loop.remove_reader(other)
        loop.call_soon(loop.stop)
        loop.remove_reader(mine)

    (a, wa), (b, wb) = pipes
    loop.add_reader(a, readable, a, b)
    loop.add_reader(b, readable, b, a)
    os.write(wa, b"x")
    os.write(wb, b"x")
    run(loop)
    assert len(called) == 1


def test_a_closed_peer_wakes_a_reader(loop: Loop) -> None:
    reader, writer = os.pipe()
    loop.add_reader(reader, loop.stop)
    os.close(writer)
    run(loop)


def test_removing_a_descriptor_that_is_closed_already_is_harmless(loop: Loop) -> None:
    reader, _ = os.pipe()
    loop.add_reader(reader, loop.stop)
    os.close(reader)
    assert loop.remove_reader(reader)


def test_an_error_is_reported_and_the_loop_goes_on(loop: Loop, errors: list[BaseException]) -> None:
    loop.call_soon(lambda: 1 / 0)
    loop.call_later(0.01, loop.stop)
    run(loop)
    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_calls_from_threads_arrive(loop: Loop) -> None:
    seen: list[int] = []

    def note(i: int) -> None:
        seen.append(i)
        if len(seen) == 2000:
            loop.stop()

    threads = [
        threading.Thread(
            target=lambda k=k: [loop.call_soon_threadsafe(note, k * 1000 + i) for i in range(1000)]
        )  # type: ignore[misc]
        for k in range(2)
    ]
    for thread in threads:
        thread.start()
    run(loop)
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(2000))
    assert [i for i in seen if i < 1000] == list(range(1000))
