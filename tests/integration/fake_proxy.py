"""A proxy whose workers and agent are a few lines of Python, for tests of the arbiter alone. Run as a script.

The arbiter is the real one. A worker answers each connection with its pid and a line of what it read; "crash"
makes it die, "hang" makes it stand still. The agent "publishes" each config by raising the generation.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import sys
import time

from fastmesh.supervisor import arbiter
from fastmesh.supervisor.channel import read_all
from fastmesh.supervisor.log import Log

FIELDS = ("pid", "state", "order", "heartbeat_ns", "seen_gen", "drain_deadline_ns", "refused_gen")
ROW = 64
STARTING, SERVING, DRAINING, GONE = 1, 2, 3, 4


class FakeSegment:
    """The part of Segment that the arbiter and this agent use, in plain shared memory."""

    def __init__(self, workers: int) -> None:
        self.memory = mmap.mmap(-1, ROW * (workers + 1))
        self.wake_fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(workers)]

    def put(self, row: int, field: str, value: int) -> None:
        struct.pack_into("q", self.memory, ROW * (row + 1) + 8 * FIELDS.index(field), value)

    def worker(self, row: int) -> dict[str, int]:
        return dict(zip(FIELDS, struct.unpack_from("7q", self.memory, ROW * (row + 1)), strict=True))

    @property
    def generation(self) -> int:
        return int(struct.unpack_from("q", self.memory, 0)[0])

    def publish(self) -> int:
        struct.pack_into("q", self.memory, 0, self.generation + 1)
        return self.generation

    def prepare(self, row: int) -> None:
        for field in FIELDS:
            self.put(row, field, 0)
        self.put(row, "state", STARTING)

    def reap(self, row: int) -> None:
        self.prepare(row)
        self.put(row, "state", GONE)

    def wake_worker(self, row: int) -> None:
        os.eventfd_write(self.wake_fds[row], 1)

    def order(self, row: int, order: int, deadline_ns: int = 0) -> None:
        self.put(row, "drain_deadline_ns", deadline_ns)
        self.put(row, "order", order)
        self.wake_worker(row)

    def set_log(self, on: bool) -> None:
        pass


def run_worker(
    segment: FakeSegment, row: int, listeners: list[tuple[str, int]], options: dict[str, int]
) -> int:
    """Serve until ordered to leave; like the real one it never looks at signals."""
    segment.put(row, "pid", os.getpid())
    names = {fd: name for name, fd in listeners}
    poll = select.poll()
    for fd in [*names, segment.wake_fds[row]]:
        poll.register(fd, select.POLLIN)
    if options.get("stillborn"):
        os._exit(9)
    segment.put(row, "seen_gen", segment.generation)
    segment.put(row, "state", SERVING)
    while True:
        segment.put(row, "heartbeat_ns", time.monotonic_ns())
        for fd, _ in poll.poll(500):
            if fd == segment.wake_fds[row]:
                os.eventfd_read(fd)
            else:
                serve(fd, names[fd], row)
        segment.put(row, "seen_gen", segment.generation)
        order = segment.worker(row)["order"]
        if order:
            return 0


def serve(fd: int, name: str, row: int) -> None:
    listener = socket.socket(fileno=os.dup(fd))
    listener.setblocking(False)
    try:
        peer, _ = listener.accept()
    except BlockingIOError:
        return
    finally:
        listener.close()
    peer.setblocking(True)
    with peer:
        line = peer.makefile("rb").readline().decode().strip()
        if line == "crash":
            os.kill(os.getpid(), 11)
        if line == "hang":
            peer.sendall(b"hanging\n")
            time.sleep(1000)
        if line.startswith("slow"):
            time.sleep(float(line.split()[1]))
        peer.sendall(f"{os.getpid()} {name} row{row} {line}\n".encode())


def run_agent(spec, segment, channel, admin: int, config: int, log: Log) -> int:
    """Accepts every config but one that contains "unpackable"; dies when its socket does."""
    segment.publish()
    log.info("agent up")
    poll = select.poll()
    poll.register(channel.fd, select.POLLIN)
    while True:
        poll.poll()
        try:
            received = channel.receive()
        except EOFError:
            for row in range(len(segment.wake_fds)):
                segment.order(row, 2)
            return 0
        (kind, values), fd = received
        if kind == "config":
            if b"unpackable" in read_all(fd):
                channel.send("rejected", values[0], "it is unpackable")
            else:
                segment.publish()
                channel.send("published", values[0])
        elif kind == "ping":
            channel.send("pong")
        elif kind == "drain":
            log.info("agent says goodbye")
            channel.send("goodbye")
        elif kind == "stop":
            return 0


def main() -> int:
    """fake_proxy.py NODE WORKERS PORT [FILE]: a sidecar's ports, or an edge of FILE."""
    node, workers, port, *rest = sys.argv[1:]
    role = "edge" if rest and rest[0] else "sidecar"
    spec = {
        "role": role,
        "node_id": node,
        "argv": sys.argv,
        "path": sys.path,
        "workers": int(workers),
        "file": rest[0] if rest else "",
        "locality": "",
        "admin": None,
        "drain_time": 5.0,
        "state": "",
        "ephemeral": False,
        "access_log": "off",
        "access_log_format": "text",
        "log_format": os.environ.get("LOG_FORMAT", "text"),
        "log_level": "info",
        "options": {"stillborn": 1} if os.environ.get("STILLBORN") else {},
    }
    if role == "sidecar":
        spec["sidecar"] = {"inbound": ("127.0.0.1", int(port)), "outbound": ("127.0.0.1", int(port) + 1)}
    if os.environ.get("LOOK_OFTEN"):
        arbiter.LOOK_SECONDS = 0.1
    log = Log("arbiter", spec["log_format"])
    return arbiter.Arbiter(spec, log, FakeSegment, run_worker, run_agent).run()


if __name__ == "__main__":
    sys.exit(main())
