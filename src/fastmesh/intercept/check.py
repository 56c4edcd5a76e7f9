"""A proof that interception works: real connections of two users, to an address that nobody has.

An application's connection has to arrive at the outbound port, and to know whom it was for; the proxy's own
has to go its way. In child processes, for a user's identity is given up for good.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass

# TEST-NET-1 (RFC 5737) and its like of IPv6 (RFC 3849): whoever answers is the packet filter's doing.
NOWHERE = {4: ("192.0.2.1", 80), 6: ("2001:db8::1", 80)}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
HERE = {4: "127.0.0.1", 6: "::1"}
ORIGINAL_DST = 80
WAIT_SECONDS = 0.3  # the kernel of this very host answers, or nobody does


@dataclass(frozen=True)
class Finding:
    what: str
    good: bool
    why: str
    tried: bool = True
    """False: without a route nothing leaves this host, and no rule is asked."""


def dial(family: int, uid: int) -> str:
    """Connect as a user; empty when somebody answered, or why not."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            with socket.socket(FAMILY[family]) as probe:
                probe.settimeout(WAIT_SECONDS)
                probe.connect(NOWHERE[family])
        except OSError as error:
            os.write(write, (error.strerror or str(error)).encode() or b"?")
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return text


def unreachable(refused: str) -> bool:
    return refused == os.strerror(errno.ENETUNREACH)


def original(sock: socket.socket, family: int) -> tuple[str, int]:
    level = socket.IPPROTO_IP if family == 4 else socket.IPPROTO_IPV6
    raw = sock.getsockopt(level, ORIGINAL_DST, 28)
    port = struct.unpack_from(">H", raw, 2)[0]
    at = raw[4:8] if family == 4 else raw[8:24]
    return socket.inet_ntop(FAMILY[family], at), port


def outbound(family: int, port: int, uid: int) -> Finding:
    what = f"IPv{family}: an application's connection arrives at port {port}"
    with socket.socket(FAMILY[family]) as trap:
        trap.settimeout(WAIT_SECONDS)
        trap.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trap.bind((HERE[family], port))
            trap.listen(1)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return Finding(what, False, error.strerror or str(error))
            refused = dial(family, uid)  # the proxy is there already, and takes it
            good = not refused or unreachable(refused)
            return Finding(what, good, refused or "the proxy has it", not unreachable(refused))
        if refused := dial(family, uid):
            return Finding(what, unreachable(refused), refused, not unreachable(refused))
        try:
            with trap.accept()[0] as caught:
                found = original(caught, family)
        except OSError as error:
            return Finding(what, False, error.strerror or str(error))
        return Finding(what, found == NOWHERE[family], f"it was for {found[0]} port {found[1]}")


def own(family: int, uid: int) -> Finding:
    refused = dial(family, uid)
    return Finding(
        f"IPv{family}: the connections of the proxy's user {uid} go their way",
        bool(refused),
        refused or "redirected: the proxy would call itself",
        not unreachable(refused),
    )


def unused(taken: tuple[int, ...]) -> int:
    """A user that is neither root nor one of these, as an application may be."""
    return next(uid for uid in (65534, 65533, 65532, 65531) if uid not in taken)
