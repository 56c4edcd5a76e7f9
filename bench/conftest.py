"""`pytest bench/`: regression runs with pytest-benchmark, stored and compared with the last one.

Owns: the fixtures (backend, fresh edge proxies) and where results go. Plain `pytest` does not
collect this directory.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))

from bench import backends, certs, machine, peers, procs  # noqa: E402
from bench.scenarios import Bench, Settings  # noqa: E402

STORAGE = REPO / "bench" / "results" / "pytest"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Every run is stored, and compared with the one before unless the command line says otherwise."""
    option = config.option
    if not hasattr(option, "benchmark_storage"):
        raise pytest.UsageError("pytest bench/ needs pytest-benchmark (pip install -e .[dev])")
    if option.benchmark_storage in (None, "file://./.benchmarks"):
        STORAGE.mkdir(parents=True, exist_ok=True)
        option.benchmark_storage = f"file://{STORAGE}"
    if option.benchmark_save is None and not option.benchmark_autosave:
        commit = str(machine.describe()["commit"])[:10]
        option.benchmark_autosave = f"{commit}_{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    if not option.benchmark_compare and any(STORAGE.glob("*/*.json")):
        option.benchmark_compare = True


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A backend and certificates of this session."""
    directory = tmp_path_factory.mktemp("bench")
    directory.chmod(0o755)
    proxy_core, load_core = procs.cores()
    settings = Settings(proxy_core=proxy_core, load_core=load_core)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {load_core})
    try:
        with backends.started(directory, settings.load_core) as behind:
            yield Bench(directory, certs.make(directory / "certs"), behind, settings)
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture(scope="session")
def fastmesh() -> peers.Peer:
    peer = peers.make("fastmesh")
    if peer.find() is None:
        pytest.skip(peer.hint())
    return peer


@pytest.fixture
def one_hop(bench: Bench, fastmesh: peers.Peer) -> Iterator[int]:
    """The port of a freshly started edge proxy."""
    with bench.proxy(fastmesh, "plain") as (running, _notes):
        yield running.port


@pytest.fixture
def two_hops(bench: Bench, fastmesh: peers.Peer) -> Iterator[int]:
    """The port of the first of two freshly started edge proxies with mTLS between them."""
    with bench.proxy(fastmesh, "pair") as (running, _notes):
        yield running.port
