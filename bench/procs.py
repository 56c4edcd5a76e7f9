"""Processes: started pinned, measured as whole trees, stopped by their own ids.

Owns: what /proc says of CPU time and memory. Must not know: what a process is for.
CPU time comes from schedstat (nanoseconds); utime and stime count in 10 ms. Memory is PSS over the tree.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STOP_SECONDS = 5.0
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_port_source = random.SystemRandom()


def free_port() -> int:
    """A port below the ephemeral range, so that no connection of a run can sit on it meanwhile."""
    for _ in range(200):
        port = _port_source.randrange(18000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port on 127.0.0.1")


def cores() -> tuple[int, int]:
    """The core of the proxies and the core of load and backend: the first two that we may use."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[min(1, len(usable) - 1)]


def _stat(pid: int) -> tuple[int, int] | None:
    """(parent, session) of a live process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return (int(fields[1]), int(fields[3])) if fields[0] != "Z" else None


def _born(pid: int) -> str:
    """When a live process was started, which with its id tells it from any other; empty for a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def tree(roots: Iterable[int]) -> list[int]:
    """The roots, all their descendants, and what else lives in the sessions that they lead."""
    known = set(roots)
    leaders = set(known)
    table: dict[int, tuple[int, int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(int(entry))) is not None:
            table[int(entry)] = stat
    grew = True
    while grew:
        grew = False
        for pid, (parent, session) in table.items():
            if pid not in known and (parent in known or session in leaders):
                known.add(pid)
                grew = True
    return sorted(pid for pid in known if pid in table)


def cpu_ns(pids: Iterable[int]) -> dict[tuple[int, int], int]:
    """CPU time in nanoseconds of every thread, by (process, thread)."""
    spent: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for thread in threads:
            try:
                text = Path(f"/proc/{pid}/task/{thread}/schedstat").read_text()
            except OSError:
                continue
            spent[pid, int(thread)] = int(text.split()[0])
    return spent


def pss_kib(pids: Iterable[int]) -> int:
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total


def _mappings(pid: int) -> dict[str, tuple[int, int]]:
    """Of each mapped file: (PSS, what of it is private), KiB, from smaps."""
    found: dict[str, tuple[int, int]] = {}
    try:
        text = Path(f"/proc/{pid}/smaps").read_text()
    except OSError:
        return found
    path = ""
    for line in text.splitlines():
        first, *rest = line.split(None, 5)
        if not first.endswith(":"):
            path = rest[4] if len(rest) == 5 else ""
        elif path.startswith("/") and first in ("Pss:", "Private_Clean:", "Private_Dirty:"):
            pss, private = found.get(path, (0, 0))
            size = int(rest[0])
            found[path] = (pss + size, private) if first == "Pss:" else (pss, private + size)
    return found


def tree_pss_kib(pids: Sequence[int]) -> int:
    """PSS of a tree as if this process were not there.

    PSS divides a page among all who map it, and this process maps Python's and libc's pages too. Its share of
    the files that the tree also maps is what the tree would carry alone, so it is added back.
    """
    theirs = {path for pid in pids for path in _mappings(pid)}
    ours = _mappings(os.getpid())
    shared = sum(pss - private for path, (pss, private) in ours.items() if path in theirs)
    return pss_kib(pids) + max(0, shared)


@dataclass(frozen=True)
class CoreTime:
    """Ticks of one core from /proc/stat: how busy it was, and how much the hypervisor took."""

    busy: int
    steal: int

    @staticmethod
    def read(core: int) -> CoreTime:
        for line in Path("/proc/stat").read_text().splitlines():
            if line.startswith(f"cpu{core} "):
                user, nice, system, _idle, _wait, irq, softirq, steal = map(int, line.split()[1:9])
                return CoreTime(user + nice + system + irq + softirq, steal)
        return CoreTime(0, 0)


@dataclass
class Running:
    """Started processes (one for a plain hop, two for a pair) and the port to talk to."""

    port: int
    inner_port: int = 0  # the second proxy's listener, in a pair
    roots: list[subprocess.Popen[bytes]] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)

    def pids(self) -> list[int]:
        return tree(root.pid for root in self.roots)

    def dead(self) -> str | None:
        """Why the run is lost, if a process ended by itself."""
        for root, log in zip(self.roots, self.logs, strict=True):
            if root.poll() is not None:
                return f"ended with status {root.returncode}: {tail(log)}"
        return None

    def stop(self) -> None:
        everyone = {pid: _born(pid) for pid in self.pids()}
        for root in self.roots:
            if root.poll() is None:
                root.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for root in self.roots:
            try:
                root.wait(max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                root.kill()
                root.wait()
        deadline = time.monotonic() + STOP_SECONDS
        while (
            time.monotonic() < deadline
        ):  # children that outlived their parent, if they are still those we started
            left = [pid for pid, born in everyone.items() if born and _born(pid) == born]
            if not left:
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


def tail(log: Path, lines: int = 3) -> str:
    try:
        text = log.read_text(errors="replace").strip()
    except OSError:
        return ""
    return " | ".join(line.strip()[:200] for line in text.splitlines()[-lines:])


def spawn(command: Sequence[str], core: int, log: Path) -> subprocess.Popen[bytes]:
    """Starts a process pinned to a core, in its own session, output in a file; it does not outlive us."""

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=prepare,
        )


def settle(pids: Sequence[int], seconds: float = 3.0) -> None:
    """Waits until the processes do (next to) nothing: start-up work is not part of any figure."""
    deadline = time.monotonic() + seconds
    before = sum(cpu_ns(pids).values())
    quiet = 0
    while time.monotonic() < deadline and quiet < 2:
        time.sleep(0.1)
        after = sum(cpu_ns(pids).values())
        quiet = quiet + 1 if after - before < 2_000_000 else 0
        before = after
