"""The listening sockets: bound by the arbiter, one SO_REUSEPORT set for each worker slot, and kept.

Owns descriptors, nothing else. A set outlives the worker that accepts on it, so connections that were queued
when a worker died are served by its replacement. Uses `_socket`: `socket` costs 1.3 MB in enums.
"""

from __future__ import annotations

import _socket
import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Accept queue of one socket; the kernel cuts it to net.core.somaxconn (4096 on today's kernels).
BACKLOG = 4096


class BindError(Exception):
    """A listener that cannot be opened; the text says which and why."""


def family_of(address: str) -> int:
    return _socket.AF_INET6 if ":" in address else _socket.AF_INET


def open_listener(address: str, port: int, shared: bool) -> int:
    """A listening, non-blocking descriptor; `shared` lets others of the same set bind the port too."""
    family = family_of(address)
    sock = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
        if family == _socket.AF_INET6:
            sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(BACKLOG)
        return sock.detach()
    except OSError as error:
        sock.close()
        named = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
        raise BindError(f"cannot listen on {named}: {reason}") from None


class Sets:
    """The sockets of one set of listeners: `fds[set][listener]`."""

    def __init__(
        self, listeners: Sequence[tuple[str, str, int]], sets: int, known: Sets | None = None
    ) -> None:
        """Bind them all or raise BindError and leave none open. Ports that `known` has are taken over from
        it."""
        self.listeners = list(listeners)
        self.fds: list[list[int]] = [[] for _ in range(sets)]
        shared = (
            {}
            if known is None
            else {(address, port): index for index, (_, address, port) in enumerate(known.listeners)}
        )
        try:
            for _, address, port in self.listeners:
                index = shared.get((address, port))
                if index is None:
                    # SO_REUSEPORT alone would let a second proxy of the same user take half of the
                    # connections.
                    os.close(open_listener(address, port, shared=False))
                for row, own in enumerate(self.fds):
                    if index is None or known is None:
                        own.append(open_listener(address, port, shared=True))
                    else:
                        own.append(os.dup(known.fds[row][index]))
        except BaseException:
            self.close()
            raise

    def of(self, row: int) -> list[tuple[str, int]]:
        """(listener name, descriptor) pairs of one set."""
        return [(listener[0], fd) for listener, fd in zip(self.listeners, self.fds[row], strict=True)]

    def close(self, keep: int | None = None) -> None:
        """Close them, but not those of set `keep`."""
        for row, own in enumerate(self.fds):
            if row != keep:
                for fd in own:
                    os.close(fd)
                own.clear()
