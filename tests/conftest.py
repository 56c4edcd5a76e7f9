"""Fixtures of every test: processes that cannot outlive their test, and a watchdog that ends a hung one."""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from helpers import Process

# pytest-timeout stops Python code. Code that loops in C with the GIL held is ended by faulthandler's own
# thread instead: the stacks are written, the test process exits, xdist reports the test and goes on.
WATCHDOG_SECONDS = 600

# They take minutes: they run when they are named (`make soak`).
SOAK = Path(__file__).parent / "soak"

# In continuous integration each run has the same examples; `make fuzz` is what goes looking for new ones.
hypothesis.settings.register_profile(
    "fastmesh", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI"))
)
hypothesis.settings.load_profile("fastmesh")

pytest_plugins = ["pytester"]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    named = any("tests/soak" in str(argument) for argument in config.invocation_params.args)
    return True if collection_path == SOAK and not named else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True, file=sys.__stderr__)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start processes: `spawn(["fastmesh", "edge", "--config", file], name="edge")`.

    At the end of the test each process group is killed, and what they wrote is shown if the test failed.
    """
    started: list[Process] = []

    def start(args: Any, **options: Any) -> Process:
        process = Process(args, tmp_path, **options)
        started.append(process)
        return process

    yield start
    for process in reversed(started):
        process.kill()
    for process in started:
        print(process.report())
