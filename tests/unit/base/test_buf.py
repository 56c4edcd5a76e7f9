"""base/buf: size classes, the cap, what grows keeps its bytes, and accounts that close."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shim.base_shim import Blocks

CLASSES = (1024, 4096, 16384, 65536, 262144)


def class_of(need: int, head: int) -> int:
    return next((size for size in CLASSES if size - head >= need), CLASSES[-1])


def header() -> int:
    blocks = Blocks(1 << 20)
    return CLASSES[0] - blocks.room(blocks.new(1))


@given(st.integers(0, 300_000))
def test_a_block_has_the_room_that_was_asked_for(need: int):
    blocks = Blocks(1 << 20)
    block = blocks.new(need)
    size = class_of(need, header())
    assert blocks.room(block) == size - header()
    assert blocks.state() == {"held": size, "kept": 0, "live": 1}
    blocks.free(block)
    assert blocks.state()["held"] == blocks.state()["live"] == 0


MOVES = st.lists(st.tuples(st.sampled_from(["new", "free", "grow"]), st.integers(0, 270_000)), max_size=80)


@given(MOVES, st.integers(0, 2 << 20))
def test_held_is_the_sum_of_what_lives_and_never_above_the_cap(moves: list[tuple[str, int]], cap: int):
    blocks, head = Blocks(cap), header()
    live: list[tuple[int, int, bytes]] = []
    for what, n in moves:
        held = sum(size for _, size, _ in live)
        if what == "new":
            size = class_of(n, head)
            block = blocks.new(n)
            assert (block is None) == (held + size > cap)
            if block is not None:
                mark = n.to_bytes(4, "big") * 16
                blocks.write(block, mark)
                live.append((block, size, mark))
        elif live:
            block, size, mark = live.pop(n % len(live))
            if what == "free":
                assert blocks.read(block) == mark
                blocks.free(block)
            else:
                grown = blocks.grow(block)
                larger = size * 4
                # both blocks are held while the bytes are copied
                assert (grown is None) == (size == CLASSES[-1] or held + larger > cap)
                live.append((block, size, mark) if grown is None else (grown, larger, mark))
                assert blocks.read(live[-1][0]) == mark
        state = blocks.state()
        assert state["live"] == len(live)
        assert state["held"] == sum(size for _, size, _ in live) <= cap
    blocks.free_chain([block for block, _, _ in live])
    assert blocks.state()["held"] == blocks.state()["live"] == 0


def test_growing_leaves_out_what_was_used():
    blocks = Blocks(1 << 20)
    block = blocks.new(10)
    blocks.write(block, b"used and kept")
    blocks.skip(block, 9)
    block = blocks.grow(block)
    assert blocks.read(block) == b"kept"


@pytest.mark.parametrize("size", CLASSES)
def test_free_blocks_are_kept_in_bounds_and_used_again(size: int):
    blocks = Blocks(256 << 20)
    many = [blocks.new(size - header()) for _ in range(200)]
    blocks.free_chain(many)
    kept = blocks.state()["kept"]
    assert 0 < kept <= 64 * 4096 * 2 + 64 * 1024
    assert blocks.new(size - header()) in many
    assert blocks.state()["kept"] == kept - size


@pytest.mark.parametrize("nth", range(1, 20))
def test_the_nth_block_fails_at_the_cap_and_all_go_back(nth: int):
    blocks = Blocks((nth - 1) * CLASSES[1])
    live = [blocks.new(CLASSES[1] - header()) for _ in range(nth)]
    assert live[-1] is None and None not in live[:-1]
    blocks.free_chain(live[:-1])
    assert blocks.state()["held"] == blocks.state()["live"] == 0
