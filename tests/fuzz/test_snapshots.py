"""shm/snapshot against hostile bytes: what snap_check takes is safe for matcher, balancer and rehearsal.

`make fuzz` runs this under AddressSanitizer for FUZZ_SECONDS (FASTMESH_FUZZ_SECONDS); else it is a fixed
number.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from helpers import snapfields

SECONDS = float(os.environ.get("FASTMESH_FUZZ_SECONDS", "0"))
MUTATIONS = 2000  # of each seed, when there is no time to fill
SHARE = 0.2  # of the boundaries, then


def load(name: str) -> ModuleType:
    """A module of this directory, by its file."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, module)
    spec.loader.exec_module(module)
    return module


snapshots = load("snapshots")


@pytest.fixture(scope="module")
def data() -> bytes:
    made: bytes = snapshots.whole()
    return made


def note(data: bytes, tmp_path: Path) -> None:
    """What is asked next: all that is left when the process crashes."""
    (tmp_path / "last").write_bytes(data)


def test_the_seed_fills_every_section(data: bytes) -> None:
    found = snapfields.elements(data)
    assert [name for name, elements in found.items() if not elements] in ([], ["levels"])
    assert snapshots.Readers().run(data)


def test_the_layout_is_that_of_the_compiler() -> None:
    """Sizes as shm/layout.pyx asserts them."""
    for name, size in snapfields.asserted().items():
        assert snapfields.STRUCTS[name][0] == size, name


@pytest.mark.timeout(600 + 2 * SECONDS)
def test_every_field_with_every_boundary(data: bytes, tmp_path: Path) -> None:
    readers = snapshots.Readers()
    rng = random.Random(1)
    taken = total = 0
    for _, made in snapshots.every_field(data):
        if not SECONDS and rng.random() > SHARE:
            continue
        sealed = snapshots.sealed(made)
        note(sealed, tmp_path)
        total += 1
        taken += readers.run(sealed, rng)
    assert total > 2000 and taken > 500


@pytest.mark.timeout(600 + 2 * SECONDS)
@pytest.mark.parametrize("seed", range(2))
def test_random_changes(data: bytes, seed: int, tmp_path: Path) -> None:
    readers = snapshots.Readers()
    rng = random.Random(seed if not SECONDS else None)
    places = snapshots.places(data)
    end = time.monotonic() + SECONDS / 2
    taken = n = 0
    while n < MUTATIONS or time.monotonic() < end:
        sealed = snapshots.sealed(snapshots.mutated(data, rng, places))
        note(sealed, tmp_path)
        n += 1
        taken += readers.run(sealed, rng)
    assert taken > n // 20


def test_no_part_of_it_is_taken(data: bytes) -> None:
    for n in [*range(0, 400), *range(400, len(data) - 64, 37)]:
        assert snapshots.Frozen(snapshots.sealed(bytearray(data[: n & ~7]))).check() is not None


def test_sections_that_share_bytes_are_refused(data: bytes) -> None:
    """Each section onto the place of each other one, as long as it is or an element long."""
    fields = {f.name: f for f in snapfields.STRUCTS["SnapHeader"][1]}
    for one in snapfields.ELEMENTS:
        for other in snapfields.ELEMENTS:
            at, n = snapfields.section(data, other)
            if one == other or n == 0:
                continue
            for count in {1, snapfields.section(data, one)[1] or 1}:
                made = bytearray(data)
                place = fields[f"{one}.off"].at
                made[place : place + 8] = at.to_bytes(4, "little") + count.to_bytes(4, "little")
                assert snapshots.Frozen(snapshots.sealed(made)).check() is not None, (one, other)
