"""shm/check_clusters: what health checks may say in a snapshot."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from shim.shm_shim import Frozen, checksum

from helpers.irconf import cluster, config, packed

CLUSTERS = 32 + 8 * 8  # the section's place in the header
CLUSTER, HEALTH = 320, 64  # bytes of SnapCluster and of SnapHealth, its last field
KIND, FLAGS, INTERVAL, JITTER, TIMEOUT, BAD, GOOD, PATH, HOST, SERVICE, EXPECTED = (
    0, 1, 4, 8, 12, 16, 20, 24, 32, 40, 48,
)  # fmt: skip


def snapshot(at: int | None = None, form: str = "", *values: int) -> bytes:
    """One cluster with a health check, and a field of it overwritten."""
    health = {
        "kind": "http",
        "path": "/healthz",
        "host": "h.example",
        "service": "s",
        "interval_ms": 1000,
        "timeout_ms": 500,
        "expected": [[200, 299], [404, 404]],
    }
    data = bytearray(packed(config(clusters=[cluster("c", 1, health=health)])))
    (first, n) = struct.unpack_from("<II", data, CLUSTERS)
    assert n == 1
    if at is not None:
        struct.pack_into(form, data, first + CLUSTER - HEALTH + at, *values)
    struct.pack_into("<Q", data, 24, checksum(bytes(data)))
    return bytes(data)


def text(data: bytes, at: int) -> tuple[int, int]:
    """Where a string of the health check lies."""
    (first, _) = struct.unpack_from("<II", data, CLUSTERS)
    off, n = struct.unpack_from("<II", data, first + CLUSTER - HEALTH + at)
    return off, n


def test_what_is_packed_is_taken() -> None:
    data = snapshot()
    assert Frozen(data).check() is None
    off, n = text(data, PATH)
    assert data[off : off + n] == b"/healthz"
    off, n = text(data, EXPECTED)
    assert struct.unpack_from(f"<{n}I", data, off) == (200, 299, 404, 404)


TIMES = "health check: no time, no threshold, or more than 100 percent"
TEXTS = "health check: not a valid path, host or service"


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ((KIND, "<B", 4), "no such health check"),
        ((FLAGS, "<B", 1), "no such health check"),
        ((INTERVAL, "<I", 0), TIMES),
        ((TIMEOUT, "<I", 0), TIMES),
        ((BAD, "<I", 0), TIMES),
        ((GOOD, "<I", 0), TIMES),
        ((JITTER, "<I", 101), TIMES),
        ((PATH, "<II", 0xFFFFFFF0, 8), TEXTS),
        ((PATH, "<II", 0, 8), TEXTS),  # the header's bytes: controls
        ((PATH, "<II", 0, 0), "health check: a path begins with a slash"),
        ((HOST, "<II", 0xFFFFFFF0, 8), TEXTS),
        ((SERVICE, "<II", 0xFFFFFFF0, 8), TEXTS),
        ((SERVICE, "<II", 32, 257), TEXTS),
        ((EXPECTED, "<II", 8, 2), "health check: statuses out of bounds"),
        ((EXPECTED, "<II", 0xFFFFFFF8, 2), "health check: statuses out of bounds"),
    ],
)
def test_what_is_out_of_bounds_is_named(bad: tuple[Any, ...], what: str) -> None:
    assert Frozen(snapshot(*bad)).check() == ("clusters", 0, what)


def test_an_odd_number_of_statuses_and_statuses_out_of_range() -> None:
    data = snapshot()
    off, n = text(data, EXPECTED)
    assert Frozen(snapshot(EXPECTED, "<II", off, n - 1)).check() == (
        "clusters", 0, "health check: statuses out of bounds",
    )  # fmt: skip
    for pair in ((99, 200), (200, 600), (300, 299)):
        made = bytearray(data)
        struct.pack_into("<II", made, off, *pair)
        struct.pack_into("<Q", made, 24, checksum(bytes(made)))
        assert Frozen(bytes(made)).check() == ("clusters", 0, "health check: statuses out of range")


@pytest.mark.parametrize("at", [PATH, HOST])
@pytest.mark.parametrize("byte", [0, 10, 13, 32, 127])
def test_nothing_in_a_text_ends_a_line(at: int, byte: int) -> None:
    data = bytearray(snapshot())
    off, _ = text(data, at)
    data[off + 1] = byte
    struct.pack_into("<Q", data, 24, checksum(bytes(data)))
    assert Frozen(bytes(data)).check() == ("clusters", 0, TEXTS)
