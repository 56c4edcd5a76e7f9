"""Makes a compiled config the one that the workers serve, and tells when all of them do.

Owns what waits to be published and who waits for it. Knows the segment; knows nothing of where a config comes
from.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastmesh.agent.loop import Loop
    from fastmesh.model.ir import Config
    from fastmesh.supervisor.log import Log

    # Called with the generation and "", or with 0 and why the config cannot be served.
    Done = Callable[[int, str], object]

# How often the workers' generations are looked at while somebody waits for them, and how long a full house
# (workers still on old generations) is waited for before the next attempt.
APPLIED_POLL_SECONDS = 0.005
BUSY_RETRY_SECONDS = 0.05


class Publisher:
    """Publishes configs one after the other; of several that wait only the newest is published."""

    def __init__(self, loop: Loop, segment: Any, log: Log) -> None:
        from fastmesh.compile.cells import CellMap
        from fastmesh.compile.snapshot import pack

        self._pack = pack
        self._loop = loop
        self._segment = segment
        self._log = log
        self.cells = CellMap(segment)
        self.config: Config | None = None  # in force
        self.published = 0
        self.rejected = 0
        self._next: Config | None = None  # waits for a free snapshot slot
        self._next_done: list[tuple[Done, Done]] = []
        self._waiting: list[tuple[int, Done]] = []
        self._polling = False

    @property
    def generation(self) -> int:
        generation: int = self._segment.generation
        return generation

    def submit(self, config: Config, accepted: Done, applied: Done) -> None:
        """Publish. `accepted` is called when it is the current config or was refused, `applied` (only after
        the former) when every worker uses it, or one of them cannot."""
        self._next = config
        self._next_done.append((accepted, applied))
        if len(self._next_done) == 1:
            self._attempt()

    def _attempt(self) -> None:
        from fastmesh._core.shm.segment import SnapshotBusy

        config = self._next
        if config is None:
            return
        try:
            generation = self._segment.publish(self._pack(config, self.cells))
        except SnapshotBusy:
            self._loop.call_later(BUSY_RETRY_SECONDS, self._attempt)
            return
        except (ValueError, KeyError, TypeError, OverflowError, OSError) as error:
            # A config that cannot be packed is whoever made it's fault: what is in force stays.
            self.rejected += 1
            reason = (
                str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
            )
            for accepted, _ in self._take():
                accepted(0, reason)
            return
        self.config = config
        self.published += 1
        for accepted, applied in self._take():
            accepted(generation, "")
            self._waiting.append((generation, applied))
        self._watch()

    def _take(self) -> list[tuple[Done, Done]]:
        taken, self._next_done, self._next = self._next_done, [], None
        return taken

    def _watch(self) -> None:
        if not self._polling and self._waiting:
            self._polling = True
            self._poll()

    def _poll(self) -> None:
        refused = self.refusals()
        last = max(refused, default=0)
        left = []
        for generation, applied in self._waiting:
            # Told in a turn of their own: whoever is told may publish something else at once.
            if generation in refused:
                self._loop.call_soon(applied, 0, refused[generation])
            elif self._segment.applied(generation):
                self._loop.call_soon(applied, generation, "")
            elif generation < last:
                # That worker has left it out for a newer one that it cannot use either.
                self._loop.call_soon(applied, 0, refused[last])
            else:
                left.append((generation, applied))
        self._waiting = left
        self._polling = bool(self._waiting)
        if self._polling:
            self._loop.call_later(APPLIED_POLL_SECONDS, self._poll)
        else:
            self._segment.reclaim()

    def refusals(self) -> dict[int, str]:
        """Generations that a worker could not use (TLS material, mostly)."""
        found = {}
        for row in range(len(self._segment.wake_fds)):
            worker = self._segment.worker(row)
            if worker["pid"] and worker["refused_gen"]:
                found[worker["refused_gen"]] = f"worker {row} cannot use generation {worker['refused_gen']}"
        return found


def nothing(generation: int, reason: str) -> None:
    """For a caller who does not wait."""
