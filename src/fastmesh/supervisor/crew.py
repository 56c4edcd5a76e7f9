"""The workers: one slot each, forked, watched, replaced. Part of the arbiter's process.

Owns pids, crash histories and the rows of shared memory that processes have. Knows nothing of config and of
signals (the arbiter reaps and calls `ended`).

A slot has a row of the segment and a set of listening sockets. Where a reload needs new sockets, a second
crew is forked onto the other half of the rows while the first one drains.
"""

from __future__ import annotations

import os
import time

from fastmesh.supervisor import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastmesh.supervisor.listeners import Sets
    from fastmesh.supervisor.log import Log

    RunWorker = Callable[[Any, int, list[tuple[str, int]], dict[str, int]], int]

# A worker that keeps crashing is not going to stop: after this many within this time the proxy gives up.
CRASHES, CRASH_SECONDS = 10, 30.0
# The first crashes are answered at once; then each one waits twice as long as the one before.
FREE_CRASHES, BACKOFF_SECONDS, BACKOFF_MAX = 3, 0.1, 1.0
# A worker's clock is looked at this often. One that stood still is poked (an idle one may sleep for long) and
# must have moved at the next look; after this many looks without a move it hangs and is killed.
LOOK_SECONDS, STILL_LOOKS = 2.0, 5
# What a worker may take beyond its drain deadline, or after an order to stop, before it is killed.
OVERTIME_SECONDS = 1.0
ORDER_DRAIN, ORDER_STOP = 1, 2
STATE_SERVING = 2


class Slot:
    """One worker's place: the same row and sockets for each process that has it."""

    __slots__ = ("crashes", "deadline", "due", "heartbeat", "pid", "row", "set", "still")

    def __init__(self, row: int, number: int) -> None:
        self.row = row
        self.set = number
        self.pid = 0
        self.due = 0.0  # when to fork next, if no process has it
        self.deadline = 0.0  # when to kill it; 0: never
        self.heartbeat = 0
        self.still = 0
        self.crashes: list[float] = []


class Crew:
    """As many workers as there are sets of sockets, on the rows from `first` on."""

    def __init__(
        self,
        segment: Any,
        sets: Sets,
        first: int,
        run_worker: RunWorker,
        options: dict[str, int],
        log: Log,
        in_child: Callable[[Crew], None],
    ) -> None:
        self.segment = segment
        self.sets = sets
        self.first = first
        self.log = log
        self.leaving = False
        self._started = False
        self._run_worker = run_worker
        self._options = options
        self._in_child = in_child
        self.slots = [Slot(first + number, number) for number in range(len(sets.fds))]

    def start(self) -> None:
        self._started = True
        for slot in self.slots:
            self._fork(slot)

    def pids(self) -> list[int]:
        return [slot.pid for slot in self.slots if slot.pid]

    def serving(self) -> bool:
        """All workers accept connections and have a config."""
        return all(slot.pid and self._serves(slot.row) for slot in self.slots)

    def _serves(self, row: int) -> bool:
        worker = self.segment.worker(row)
        return bool(worker["state"] == STATE_SERVING and worker["seen_gen"])

    def ended(self, pid: int, status: int) -> bool:
        """A child of the arbiter has ended: if it is one of these, note it and plan its replacement."""
        slot = next((slot for slot in self.slots if slot.pid == pid), None)
        if slot is None:
            return False
        self.segment.reap(slot.row)
        slot.pid = 0
        how = signals.describe(status)
        if self.leaving:
            if status:
                self.log.warning(f"worker {slot.set} {how} while leaving", pid=pid)
            return True
        now = time.monotonic()
        slot.crashes = [at for at in slot.crashes if now - at < CRASH_SECONDS]
        slot.crashes.append(now)
        beyond = len(slot.crashes) - FREE_CRASHES
        wait = min(BACKOFF_SECONDS * 2 ** (beyond - 1), BACKOFF_MAX) if beyond > 0 else 0.0
        slot.due = now + wait
        self.log.error(
            f"worker {slot.set} {how}; it is replaced" + (f" in {wait:g} s" if wait else ""), pid=pid
        )
        return True

    def crash_loop(self) -> str:
        """Why it is of no use to go on, or an empty string."""
        for slot in self.slots:
            if not self.leaving and len(slot.crashes) >= CRASHES:
                return f"worker {slot.set} crashed {CRASHES} times within {CRASH_SECONDS:g} s"
        return ""

    def next_due(self) -> float | None:
        """When `tend` has something to do (monotonic), None: nothing planned."""
        if not self._started:
            return None
        times = [slot.due for slot in self.slots if not slot.pid and not self.leaving]
        times += [slot.deadline for slot in self.slots if slot.pid and slot.deadline]
        return min(times, default=None)

    def tend(self) -> None:
        """Fork what is due, kill what is overdue."""
        if not self._started:
            return
        now = time.monotonic()
        for slot in self.slots:
            if not slot.pid:
                if not self.leaving and slot.due <= now:
                    self._fork(slot)
            elif slot.deadline and slot.deadline <= now:
                self.log.warning(f"worker {slot.set} did not leave in time: killed", pid=slot.pid)
                self._kill(slot)

    def look(self) -> None:
        """Find those that hang. Called every LOOK_SECONDS."""
        for slot in self.slots:
            if not slot.pid:
                continue
            beat = self.segment.worker(slot.row)["heartbeat_ns"]
            if beat != slot.heartbeat:
                slot.heartbeat, slot.still = beat, 0
                continue
            slot.still += 1
            self.segment.wake_worker(slot.row)
            if slot.still > STILL_LOOKS:
                self.log.error(
                    f"worker {slot.set} has not moved for {LOOK_SECONDS * slot.still:g} s: killed",
                    pid=slot.pid,
                )
                self._kill(slot)

    def drain(self, seconds: float) -> None:
        """Have them finish what is in flight and leave; no replacement from now on."""
        self.leaving = True
        deadline = time.monotonic() + seconds
        for slot in self.slots:
            if slot.pid:
                slot.deadline = deadline + OVERTIME_SECONDS
                self.segment.order(slot.row, ORDER_DRAIN, int(deadline * 1e9))

    def stop(self) -> None:
        """Have them leave now."""
        self.leaving = True
        for slot in self.slots:
            if slot.pid:
                slot.deadline = time.monotonic() + OVERTIME_SECONDS
                self.segment.order(slot.row, ORDER_STOP)

    def kill(self) -> None:
        self.leaving = True
        for slot in self.slots:
            self._kill(slot)

    def _kill(self, slot: Slot) -> None:
        slot.deadline = 0.0
        slot.still = 0
        if slot.pid:
            os.kill(slot.pid, signals.SIGKILL)

    def _fork(self, slot: Slot) -> None:
        self.segment.prepare(slot.row)
        slot.heartbeat = slot.still = 0
        slot.deadline = 0.0
        try:
            pid = fork(
                f"fastmesh-w{slot.set}", False, lambda: self._work(slot), self.log.named(f"worker-{slot.set}")
            )
        except OSError as error:
            slot.due = time.monotonic() + BACKOFF_MAX
            self.log.error(f"worker {slot.set} cannot be forked: {error.strerror}")
            return
        slot.pid = pid

    def _work(self, slot: Slot) -> int:
        self._in_child(self)
        self.sets.close(keep=slot.set)
        return self._run_worker(self.segment, slot.row, self.sets.of(slot.set), self._options)


def fork(name: str, unblocked: bool, run: Callable[[], int], log: Log) -> int:
    """Fork a child that is called `name`, runs `run` and exits with what it returns. Its pid."""
    signals.block()  # nothing meant for the arbiter must reach a handler in the child before it has its own
    try:
        pid = os.fork()
    except OSError:
        signals.unblock()
        raise
    if pid:
        signals.unblock()
        return pid
    code = 1
    try:
        signals.child(unblocked)
        rename(name)
        code = run()
    except BaseException as error:
        log.exception("cannot go on", error)
    finally:
        os._exit(code)


def rename(name: str) -> None:
    """What ps and top show for this process (15 characters)."""
    try:
        with open("/proc/self/comm", "w") as file:
            file.write(name[:15])
    except OSError:
        return
