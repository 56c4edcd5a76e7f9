"""The wire between arbiter and agent: whole messages over a socket pair, a descriptor may ride along.

Owns one end of the pair. Knows nothing of what the messages mean. Both ends are the same build (one forked
from the other), so `marshal` will do.
"""

from __future__ import annotations

import _socket
import marshal
import os
import sys

# Messages are orders and short reasons; configs go as descriptors.
MESSAGE_BYTES = 65536
TEXT_CHARS = 8000


class Channel:
    """One end. `receive` never blocks; a message for a peer that is gone or does not read is dropped."""

    def __init__(self, sock: _socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.fd = sock.fileno()

    @staticmethod
    def pair() -> tuple[Channel, Channel]:
        left, right = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        return Channel(left), Channel(right)

    @staticmethod
    def of(fd: int) -> Channel:
        """The end that this process was started with."""
        return Channel(_socket.socket(fileno=fd))

    def send(self, kind: str, *values: int | str, fd: int | None = None) -> bool:
        """Send (kind, values...) and, with it, a copy of `fd`. False if it cannot be delivered now."""
        cut = [value[:TEXT_CHARS] if isinstance(value, str) else value for value in values]
        rights = (
            []
            if fd is None
            else [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder, signed=True))]
        )
        try:
            self._sock.sendmsg([marshal.dumps((kind, *cut))], rights, _socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def receive(self) -> tuple[tuple[str, list[int | str]], int | None] | None:
        """((kind, values), descriptor or None); None if there is none now; EOFError when the peer is gone."""
        try:
            data, ancillary, _, _ = self._sock.recvmsg(
                MESSAGE_BYTES, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except OSError:
            raise EOFError from None
        if not data:
            raise EOFError
        fd = None
        for level, kind, payload in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                fd = int.from_bytes(payload[:4], sys.byteorder, signed=True)
        name, *values = marshal.loads(data)
        return (name, values), fd

    def close(self) -> None:
        self._sock.close()


def read_all(fd: int) -> bytes:
    """All of a memory file, whatever its offset (which is shared with whoever else has it)."""
    size = os.fstat(fd).st_size
    parts = []
    offset = 0
    while offset < size:
        part = os.pread(fd, size - offset, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
