"""What a figure must say about the machine that it was taken on.

Owns: the description and the disturbance measure. Must not know: what is measured.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.procs import CoreTime, cpu_ns

TICKS = os.sysconf("SC_CLK_TCK")


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"


def _git(*args: str) -> str:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def describe() -> dict[str, object]:
    models = [
        line.split(":", 1)[1].strip() for line in _read("/proc/cpuinfo").splitlines() if "model name" in line
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "congestion_control": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "load_average": os.getloadavg(),
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain")),
    }


@dataclass(frozen=True)
class Disturbance:
    """What others did while we measured, in percent of one core."""

    proxy_core_others: float
    load_core_others: float
    steal: float

    def asdict(self) -> dict[str, float]:
        return asdict(self)


def _own_seconds(backend: Sequence[int]) -> float:
    """CPU time of what belongs on the load's core: this process, the generators that it ran, the backend."""
    mine = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in mine) + sum(cpu_ns(backend).values()) / 1e9


class Watch:
    """Tells, over a window, how much of both cores went to somebody else."""

    def __init__(self, proxy_core: int, load_core: int, backend: Sequence[int]) -> None:
        self.cores = (proxy_core, load_core)
        self.backend = backend
        self.before = [CoreTime.read(core) for core in self.cores]
        self.own = _own_seconds(backend)
        self.begun = time.monotonic()

    def over(self, proxies_ns: int) -> Disturbance:
        seconds = time.monotonic() - self.begun
        ours = (proxies_ns / 1e9, _own_seconds(self.backend) - self.own)
        if self.cores[0] == self.cores[1]:
            ours = (sum(ours), sum(ours))
        others, steal = [], 0.0
        for core, before, own in zip(self.cores, self.before, ours, strict=True):
            after = CoreTime.read(core)
            busy = (after.busy - before.busy) / TICKS
            others.append(round(100 * max(0.0, busy - own) / seconds, 1))
            steal = max(steal, 100 * (after.steal - before.steal) / TICKS / seconds)
        return Disturbance(others[0], others[1], round(steal, 1))
