"""The agent: the one process of a proxy that has a loop. It gets configs, publishes them, answers the admin
endpoint.

Owns the loop and wires the parts together; each part owns its own state. It may hang or die at any moment:
workers serve what was published last, and its successor finds everything it needs in shared memory and on
disk.
"""

from __future__ import annotations

from fastmesh.agent.loop import Loop
from fastmesh.agent.publisher import Publisher
from fastmesh.supervisor.channel import read_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastmesh.supervisor.channel import Channel
    from fastmesh.supervisor.log import Log
    from fastmesh.supervisor.spec import Spec

ORDER_STOP = 2


class Agent:
    """The parts of one agent and what they tell each other."""

    def __init__(self, spec: Spec, segment: Any, channel: Channel, admin: int, config: int, log: Log) -> None:
        self.spec = spec
        self.segment = segment
        self.log = log
        self.channel = channel
        self.draining = False
        self.loop = Loop(lambda error: log.exception("unexpected error", error))
        self.publisher = Publisher(self.loop, segment, log)
        self.loop.add_reader(channel.fd, self._ordered)
        if config >= 0:
            self.loop.call_soon(self._publish_edge, read_all(config), 0)

    def run(self) -> int:
        self.loop.run()
        return 0

    # --- orders of the arbiter

    def _ordered(self) -> None:
        while True:
            try:
                received = self.channel.receive()
            except EOFError:
                self._orphaned()
                return
            if received is None:
                return
            (kind, values), fd = received
            if kind == "config" and fd is not None:
                self._publish_edge(read_all(fd), int(values[0]))
            elif kind == "drain":
                self._drain()
            elif kind == "stop":
                self._stop()

    def _publish_edge(self, packed: bytes, serial: int) -> None:
        """Publish what the arbiter's helper has compiled, and tell the arbiter what came of it."""
        import msgpack

        def accepted(generation: int, reason: str) -> None:
            if reason:
                self.channel.send("rejected", serial, reason)
                self.log.error("config cannot be served", reason=reason)
            else:
                self.channel.send("published", serial)

        def applied(generation: int, reason: str) -> None:
            if reason:
                self.log.error("config is not served by all workers", reason=reason)
            else:
                self.log.info("config applied by all workers", generation=generation)

        self.publisher.submit(msgpack.unpackb(packed), accepted, applied)

    def _drain(self) -> None:
        self.draining = True
        self.channel.send("goodbye")

    def _stop(self) -> None:
        self.loop.stop()

    def _orphaned(self) -> None:
        """The arbiter was killed: nobody would replace or stop the workers, so they and the agent leave."""
        self.log.error("the arbiter is gone: workers are told to leave")
        for row in range(len(self.segment.wake_fds)):
            self.segment.order(row, ORDER_STOP)
        self.loop.stop()
