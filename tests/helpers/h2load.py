"""h2load as a load that counts: how many requests it made, and how each ended."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers.procs import Process


class Result(NamedTuple):
    total: int
    done: int
    lost: int  # without an answer
    statuses: dict[int, int]  # by hundreds


class H2load:
    """Kept connections (HTTP/1.1, or with `h2` HTTP/2 of ten streams at a time) that ask for `path`, `count`
    requests in all; at most `rate` a second on each."""

    def __init__(
        self, directory: Path, port: int, count: int, clients: int = 16, rate: int = 0, path: str = "/",
        host: str = "", h2: bool = False,
    ) -> None:  # fmt: skip
        binary = shutil.which("h2load")
        if binary is None:
            pytest.skip("h2load is not installed")
        options = ["-m10" if h2 else "--h1", f"-n{count}", f"-c{clients}", "-t1"]
        if rate:
            options.append(f"--rps={rate}")
        if host:
            options.append(f"--connect-to=127.0.0.1:{port}")
        url = f"http://{host or '127.0.0.1'}:{port}{path}"
        self.process = Process(["env", "-u", "LD_PRELOAD", binary, *options, url], directory, name="h2load")

    @property
    def running(self) -> bool:
        return self.process.alive

    def result(self, timeout: float = 90) -> Result:
        assert self.process.wait(timeout) == 0, self.process.report()
        text = self.process.stdout
        counts = re.search(r"requests: (\d+) total, .* (\d+) done, .* (\d+) errored, (\d+) timeout", text)
        statuses = re.search(r"status codes: (.*)", text)
        assert counts and statuses, text
        found = {int(name): int(n) for n, name in re.findall(r"(\d+) (\d)xx", statuses[1])}
        total, done, errored, late = map(int, counts.groups())
        return Result(total, done, errored + late, {k: n for k, n in found.items() if n})

    def kill(self) -> None:
        self.process.kill()
        print(self.process.report())
