"""The agent's event loop: epoll, timers, nothing else (asyncio would cost 4 MB in every sidecar).

Owns descriptors' callbacks and timers. Knows nothing of what they are for. Callbacks run one at a time in the
thread that runs the loop; only `call_soon_threadsafe` may be called from another. A callback that raises is
reported and the loop goes on: one broken request must not stop the agent.
"""

from __future__ import annotations

import os
import select
import time
from _heapq import heappop, heappush

TYPE_CHECKING = False  # as in `typing`, which costs a process 0.8 MB
if TYPE_CHECKING:
    from collections.abc import Callable

    Callback = Callable[..., object]


class Timer:
    """A call that is due at a time; `cancel` forgets it."""

    __slots__ = ("args", "callback", "order", "when")

    def __init__(self, when: float, order: int, callback: Callback, args: tuple[object, ...]) -> None:
        self.when = when
        self.order = order
        self.callback: Callback | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def __lt__(self, other: Timer) -> bool:
        return (self.when, self.order) < (other.when, other.order)


class Loop:
    """Readers, writers and timers of one thread."""

    def __init__(self, on_error: Callable[[BaseException], object]) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, tuple[Callback, tuple[object, ...]]] = {}
        self._writers: dict[int, tuple[Callback, tuple[object, ...]]] = {}
        self._timers: list[Timer] = []
        self._order = 0
        self._running = False
        self._on_error = on_error
        self._wake_reader, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._from_threads: list[tuple[Callback, tuple[object, ...]]] = []
        self.add_reader(self._wake_reader, self._woken)

    def time(self) -> float:
        """The loop's clock (monotonic seconds)."""
        return time.monotonic()

    def add_reader(self, fd: int, callback: Callback, *args: object) -> None:
        """Call back while `fd` is readable (level-triggered) or broken; replaces an earlier reader."""
        known = self._interest(fd)
        self._readers[fd] = (callback, args)
        self._update(fd, known)

    def remove_reader(self, fd: int) -> bool:
        """Forget the reader. Call it before the descriptor is closed. True if there was one."""
        known = self._interest(fd)
        if self._readers.pop(fd, None) is None:
            return False
        self._update(fd, known)
        return True

    def add_writer(self, fd: int, callback: Callback, *args: object) -> None:
        """Call back while `fd` is writable (level-triggered) or broken; replaces an earlier writer."""
        known = self._interest(fd)
        self._writers[fd] = (callback, args)
        self._update(fd, known)

    def remove_writer(self, fd: int) -> bool:
        known = self._interest(fd)
        if self._writers.pop(fd, None) is None:
            return False
        self._update(fd, known)
        return True

    def call_later(self, delay: float, callback: Callback, *args: object) -> Timer:
        """Call once, `delay` seconds from now."""
        self._order += 1
        timer = Timer(time.monotonic() + delay, self._order, callback, args)
        heappush(self._timers, timer)
        return timer

    def call_soon(self, callback: Callback, *args: object) -> Timer:
        """Call in the loop's next turn."""
        return self.call_later(0.0, callback, *args)

    def call_soon_threadsafe(self, callback: Callback, *args: object) -> None:
        """As `call_soon`, from any thread."""
        self._from_threads.append((callback, args))
        try:
            os.write(self._wake_writer, b"\0")
        except BlockingIOError:
            return  # the pipe is full of wake-ups: one is on its way

    def run(self) -> None:
        """Run until `stop` is called."""
        self._running = True
        while self._running:
            self._turn()

    def stop(self) -> None:
        """Leave `run` at the end of this turn."""
        self._running = False

    def _interest(self, fd: int) -> int:
        return (select.EPOLLIN if fd in self._readers else 0) | (
            select.EPOLLOUT if fd in self._writers else 0
        )

    def _update(self, fd: int, known: int) -> None:
        wanted = self._interest(fd)
        if wanted == known:
            return
        if not known:
            self._epoll.register(fd, wanted)
        elif wanted:
            self._epoll.modify(fd, wanted)
        else:
            try:
                self._epoll.unregister(fd)
            except OSError:
                return  # closed before it was removed: the kernel has forgotten it already

    def _turn(self) -> None:
        timers = self._timers
        while timers and timers[0].callback is None:
            heappop(timers)
        timeout = max(0.0, timers[0].when - time.monotonic()) if timers else -1.0
        for fd, events in self._epoll.poll(timeout, 64):
            # Looked up at the call: an earlier callback of this turn may have removed or replaced it.
            if events & ~select.EPOLLOUT and (reader := self._readers.get(fd)):
                self._call(*reader)
            if events & ~select.EPOLLIN and (writer := self._writers.get(fd)):
                self._call(*writer)
        # Timers that fire now may set others: those wait for the next turn, so none can starve the
        # descriptors.
        now, last = time.monotonic(), self._order
        later = []
        while timers and timers[0].when <= now:
            timer = heappop(timers)
            if timer.order > last:
                later.append(timer)
            elif timer.callback is not None:
                callback, timer.callback = timer.callback, None
                self._call(callback, timer.args)
        for timer in later:
            heappush(timers, timer)

    def _call(self, callback: Callback, args: tuple[object, ...]) -> None:
        try:
            callback(*args)
        except Exception as error:
            self._on_error(error)

    def _woken(self) -> None:
        try:
            os.read(self._wake_reader, 4096)
        except BlockingIOError:
            return
        while self._from_threads:
            self._call(*self._from_threads.pop(0))
