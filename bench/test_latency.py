"""Latency of single requests, one client, nothing else going on: what a change did to the time a hop adds.

`direct` is the same client on the backend itself, in the same run: subtract it before believing a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import pytest

from bench import check
from bench.load.client import Client
from bench.scenarios import Bench

ROUNDS = 3000
LARGE_ROUNDS = 200
CONNECT_ROUNDS = 500


class Benchmark(Protocol):
    """The part of pytest-benchmark's fixture that is used."""

    def pedantic(self, target: Callable[[], None], *, rounds: int, warmup_rounds: int) -> None: ...


@contextmanager
def client(port: int, path: str = "/", body: int = check.SMALL) -> Iterator[Client]:
    made = Client(port, path, body)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.benchmark(group="1 KiB on a kept-alive connection")
def test_direct(bench: Bench, benchmark: Benchmark) -> None:
    with client(bench.backends.http1) as asking:
        benchmark.pedantic(asking.ask, rounds=ROUNDS, warmup_rounds=200)


@pytest.mark.benchmark(group="1 KiB on a kept-alive connection")
def test_one_hop(one_hop: int, benchmark: Benchmark) -> None:
    with client(one_hop) as asking:
        benchmark.pedantic(asking.ask, rounds=ROUNDS, warmup_rounds=200)


@pytest.mark.benchmark(group="1 KiB on a kept-alive connection")
def test_two_hops_mtls(two_hops: int, benchmark: Benchmark) -> None:
    with client(two_hops) as asking:
        benchmark.pedantic(asking.ask, rounds=ROUNDS, warmup_rounds=200)


@pytest.mark.benchmark(group="1 MiB on a kept-alive connection")
def test_large_direct(bench: Bench, benchmark: Benchmark) -> None:
    with client(bench.backends.http1, "/large", check.LARGE) as asking:
        benchmark.pedantic(asking.ask, rounds=LARGE_ROUNDS, warmup_rounds=20)


@pytest.mark.benchmark(group="1 MiB on a kept-alive connection")
def test_large_one_hop(one_hop: int, benchmark: Benchmark) -> None:
    with client(one_hop, "/large", check.LARGE) as asking:
        benchmark.pedantic(asking.ask, rounds=LARGE_ROUNDS, warmup_rounds=20)


def _connect_and_ask(port: int) -> None:
    with client(port) as asking:
        asking.ask()


@pytest.mark.benchmark(group="1 KiB on a new connection")
def test_connect_direct(bench: Bench, benchmark: Benchmark) -> None:
    port = bench.backends.http1
    benchmark.pedantic(lambda: _connect_and_ask(port), rounds=CONNECT_ROUNDS, warmup_rounds=50)


@pytest.mark.benchmark(group="1 KiB on a new connection")
def test_connect_one_hop(one_hop: int, benchmark: Benchmark) -> None:
    benchmark.pedantic(lambda: _connect_and_ask(one_hop), rounds=CONNECT_ROUNDS, warmup_rounds=50)
