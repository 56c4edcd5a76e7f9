"""When a sidecar is advertised: not before its application answers, and no longer once it is about to leave.

Owns the probe of the application at the start and the watch for the last request in flight at the end.
Knows nothing of the control plane (sidecar.py tells it).
"""

from __future__ import annotations

import _socket
import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastmesh.agent.loop import Loop, Timer

# One try: an application that takes longer to answer is not ready.
PROBE_SECONDS = 5.0
# Between tries; a server in Python takes some tenths of a second to its first accept.
PAUSE_FIRST, PAUSE_MAX = 0.05, 0.5
# The status line is all that is looked at.
STATUS_BYTES = 12
# After the workload has left the lists: how long others may still send to it because they have not heard of
# it. What comes after that finds the application as it is.
SETTLE_SECONDS = 0.5
LOOK_SECONDS = 0.05


class Gate:
    """The probe of one application, until it has answered once."""

    def __init__(self, loop: Loop, app: tuple[str, int], path: str, opened: Callable[[], object]) -> None:
        """`path`: what to GET; empty: a connection is enough."""
        self._loop = loop
        self._app = app
        self._path = path
        self._opened = opened
        self._pause = PAUSE_FIRST
        self._sock: _socket.socket | None = None
        self._got = b""
        self._timer: Timer | None = None
        self.last_error = "not asked yet"

    def start(self) -> None:
        self._timer = None
        self._got = b""
        try:
            # An address, or a name of this machine: that does not block.
            family, kind, _, _, address = _socket.getaddrinfo(*self._app, 0, _socket.SOCK_STREAM)[0]
            self._sock = _socket.socket(family, kind | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        except OSError as error:
            self._failed(error.strerror or str(error))
            return
        self._timer = self._loop.call_later(PROBE_SECONDS, self._failed, "no answer in time")
        code = self._sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            self._failed(errno.errorcode.get(code, str(code)))
        else:
            self._loop.add_writer(self._sock.fileno(), self._connected)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sock is not None:
            self._loop.remove_writer(self._sock.fileno())
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _connected(self) -> None:
        if self._sock is None:
            return
        if code := self._sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR):
            self._failed(errno.errorcode.get(code, str(code)))
            return
        if not self._path:
            self._succeeded()
            return
        self._loop.remove_writer(self._sock.fileno())
        host = self._app[0] if ":" not in self._app[0] else f"[{self._app[0]}]"
        request = (
            f"GET {self._path} HTTP/1.1\r\nhost: {host}:{self._app[1]}\r\nuser-agent: fastmesh-hc\r\n"
            "connection: close\r\n\r\n"
        )
        try:
            self._sock.send(request.encode())
        except OSError as error:
            self._failed(error.strerror or str(error))
            return
        self._loop.add_reader(self._sock.fileno(), self._answered)

    def _answered(self) -> None:
        if self._sock is None:
            return
        try:
            part = self._sock.recv(STATUS_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(error.strerror or str(error))
            return
        self._got += part
        if len(self._got) < STATUS_BYTES and part:
            return
        status = self._got[9:STATUS_BYTES]
        if self._got.startswith(b"HTTP/1.") and status.isdigit() and 200 <= int(status) < 400:
            self._succeeded()
        else:
            self._failed(f"{self._path} answered {self._got[:STATUS_BYTES].decode('ascii', 'replace')!r}")

    def _failed(self, why: str) -> None:
        self.close()
        self.last_error = why
        self._timer = self._loop.call_later(self._pause, self.start)
        self._pause = min(self._pause * 1.5, PAUSE_MAX)

    def _succeeded(self) -> None:
        self.close()
        self.last_error = ""
        self._opened()


def when_quiet(loop: Loop, active: Callable[[], int], done: Callable[[], object]) -> None:
    """`done` once nothing is in flight; whoever waits for it has a limit of its own."""
    end = loop.time() + SETTLE_SECONDS

    def look() -> None:
        if loop.time() >= end and not active():
            done()
        else:
            loop.call_later(LOOK_SECONDS, look)

    look()
