"""What a figure must say about the machine that it was taken on.

Owns: the description and the disturbance measure. Must not know: what is measured.
"""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.procs import CoreTime

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
    steal: float

    def asdict(self) -> dict[str, float]:
        return asdict(self)


class Watch:
    """Tells, over a window, how much of the proxy's core went to somebody else."""

    def __init__(self, core: int) -> None:
        self.core = core
        self.before = CoreTime.read(core)

    def over(self, seconds: float, ours_ns: int) -> Disturbance:
        after = CoreTime.read(self.core)
        busy = (after.busy - self.before.busy) / TICKS
        steal = (after.steal - self.before.steal) / TICKS
        others = max(0.0, busy - ours_ns / 1e9)
        return Disturbance(round(100 * others / seconds, 1), round(100 * steal / seconds, 1))
