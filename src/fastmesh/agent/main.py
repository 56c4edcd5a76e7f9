"""The agent: the one process of a proxy that has a loop. It gets configs, publishes them, answers the admin
endpoint.

Owns the loop and wires the parts together; each part owns its own state. It may hang or die at any moment:
workers serve what was published last, and its successor finds what it needs in shared memory and on disk.
"""

from __future__ import annotations

import gc
import os
import time

from fastmesh._core.shm.segment import trim_memory
from fastmesh.agent.admin import PLAIN, Admin
from fastmesh.agent.dns import Resolver
from fastmesh.agent.loop import Loop
from fastmesh.agent.names import Names
from fastmesh.agent.publisher import Publisher, nothing
from fastmesh.supervisor.channel import read_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastmesh.agent.accesslog import AccessLog
    from fastmesh.agent.publisher import Done
    from fastmesh.agent.sidecar import Sidecar
    from fastmesh.model.ir import Config
    from fastmesh.supervisor.channel import Channel
    from fastmesh.supervisor.log import Log
    from fastmesh.supervisor.spec import Spec

ORDER_STOP = 2
STATE_SERVING = 2
# After the first config is served: acknowledging it and the first scrape need a little more.
TRIM_SECONDS = 0.2


class Agent:
    """The parts of one agent and what they tell each other."""

    def __init__(self, spec: Spec, segment: Any, channel: Channel, admin: int, config: int, log: Log) -> None:
        self.spec = spec
        self.segment = segment
        self.log = log
        self.channel = channel
        self.draining = False
        self.started = time.monotonic()
        self.names = Names()
        self.loop = Loop(lambda error: log.exception("unexpected error", error))
        self.publisher = Publisher(self.loop, segment, log)
        self.resolver = Resolver(self.loop, log, self._addresses_changed)
        self.access_log: AccessLog | None = None
        self.sidecar: Sidecar | None = None
        self._desired: Config | None = None  # as compiled, before names were resolved
        self._trimmed = False
        self._certificates: tuple[object, list[dict[str, Any]]] = (None, [])
        if spec["access_log"] != "off":
            from fastmesh.agent.accesslog import AccessLog

            self.access_log = AccessLog(
                self.loop, segment, spec["access_log"], spec["access_log_format"], log
            )
        self._admin = Admin(self.loop, admin, self._asked) if admin >= 0 else None
        self.loop.add_reader(channel.fd, self._ordered)
        if config >= 0:
            self.loop.call_soon(self._publish_edge, read_all(config), 0)
            os.close(config)  # the arbiter keeps its own

    @property
    def workload(self) -> dict[str, str]:
        """Who this proxy is, in metrics and views."""
        own = self.spec.get("sidecar")
        if own is None:
            return {"service": "", "namespace": "", "version": "", "principal": ""}
        return {
            "service": own["service"],
            "namespace": own["namespace"],
            "version": own["version"],
            "principal": self.sidecar.spiffe_id if self.sidecar is not None else "",
        }

    def run(self) -> int:
        """Until told to stop."""
        if self.spec["role"] == "sidecar":
            from fastmesh.agent.sidecar import Sidecar

            self.sidecar = Sidecar(self)
            self.sidecar.start()
        # The arbiter froze and stopped its collector before the fork; here objects come and go.
        gc.enable()
        self.loop.run()
        if self.access_log is not None:
            self.access_log.flush()
        if self.sidecar is not None:
            self.sidecar.close()
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
            if fd is not None:
                # Closed first: it holds private keys, and one comes with each reload.
                packed = read_all(fd)
                os.close(fd)
                if kind == "config":
                    self._publish_edge(packed, int(values[0]))
            if kind == "ping":
                self.channel.send("pong")
            elif kind == "drain":
                self._drain()
            elif kind == "retire":
                self._retire()
            elif kind == "reopen" and self.access_log is not None:
                self.access_log.reopen()
            elif kind == "stop":
                self.loop.stop()

    def _drain(self) -> None:
        self.draining = True
        if self.sidecar is None:
            self.channel.send("goodbye")
        else:
            self.sidecar.goodbye(lambda: self.channel.send("goodbye"))

    def _retire(self) -> None:
        """The application is about to leave: nobody is to send to it any more. All else goes on."""
        self.draining = True
        if self.sidecar is None:
            self.channel.send("quiet")
        else:
            self.sidecar.retire(lambda: self.channel.send("quiet"))

    def ask_to_drain(self) -> None:
        """For /quitquitquit: the arbiter decides."""
        self.channel.send("drain")

    def fatal(self, status: int, reason: str) -> None:
        """There is nothing to serve and nothing to wait for: the arbiter ends the proxy."""
        self.channel.send("fatal", status, reason)

    def _orphaned(self) -> None:
        """The arbiter was killed: nobody would replace or stop the workers, so they and the agent leave."""
        self.log.error("the arbiter is gone: workers are told to leave")
        for row in range(len(self.segment.wake_fds)):
            self.segment.order(row, ORDER_STOP)
        self.loop.stop()

    # --- configs

    def publish(self, config: Config, accepted: Done, applied: Done) -> None:
        """Serve a config; see Publisher.submit."""

        before, self._desired = self._desired, config

        def taken(generation: int, reason: str) -> None:
            if not reason and self.publisher.config is not None:
                self.names.learn(self.publisher.config, self.publisher.cells.cells)
            elif self._desired is config:
                self._desired = before
                if before is not None:
                    self.resolver.substitute(before)  # its names are the ones to keep resolving
            accepted(generation, reason)

        def served(generation: int, reason: str) -> None:
            applied(generation, reason)
            self._trim()

        self.publisher.submit(self.resolver.substitute(config), taken, served)

    def _trim(self) -> None:
        """Once, when the first config is served: give back what only the start needed."""
        if not self._trimmed:
            self._trimmed = True
            self.loop.call_later(TRIM_SECONDS, trim_memory)

    def _addresses_changed(self) -> None:
        if self._desired is not None:
            self.publish(self._desired, self._kept, nothing)

    def _kept(self, generation: int, reason: str) -> None:
        if reason:
            self.log.error("new addresses cannot be served", reason=reason)

    def _publish_edge(self, packed: bytes, serial: int) -> None:
        """Serve what the arbiter's helper has compiled, and tell the arbiter what came of it."""
        import msgpack

        def accepted(generation: int, reason: str) -> None:
            if reason:
                self.channel.send("rejected", serial, reason)
            else:
                self.channel.send("published", serial)

        def applied(generation: int, reason: str) -> None:
            if reason:
                self.log.error("config is not served by all workers", reason=reason)
            else:
                self.log.info("config applied by all workers", generation=generation)

        self.publish(msgpack.unpackb(packed), accepted, applied)

    # --- what the admin endpoint asks

    def _asked(self, method: str, path: str, query: dict[str, str]) -> tuple[int, str, bytes, str]:
        if path == "/ready" and method in ("GET", "HEAD"):
            # What probes ask for the proxy's whole life does not load the views.
            reason = self.not_ready()
            return (503, PLAIN, f"{reason}\n".encode(), "") if reason else (200, PLAIN, b"LIVE\n", "")
        from fastmesh.agent import views

        try:
            status, kind, text = views.answer(self, method, path, query)
        except Exception as error:
            self.log.exception(f"{method} {path}", error)
            return 500, PLAIN, b"internal error; see the log\n", ""
        return (
            status,
            kind,
            text.encode("utf-8", "backslashreplace"),
            views.allowed(path) if status == 405 else "",
        )

    def uptime(self) -> float:
        return time.monotonic() - self.started

    def not_ready(self) -> str:
        """Why this proxy does not serve, an empty string when it does."""
        if self.draining:
            return "DRAINING"
        if not self.segment.generation:
            reason = self.sidecar.waiting_for() if self.sidecar is not None else "no config yet"
            return f"INITIALIZING: {reason}"
        rows = [self.segment.worker(row) for row in range(len(self.segment.wake_fds))]
        serving = sum(1 for w in rows if w["pid"] and w["state"] == STATE_SERVING and w["seen_gen"])
        if serving < self.spec["workers"]:
            return f"INITIALIZING: {serving} of {self.spec['workers']} workers serve"
        return ""

    def config_source(self) -> str:
        """Where the config in force came from."""
        return self.spec["file"] if self.sidecar is None else self.sidecar.source

    def control_state(self) -> dict[str, Any] | None:
        return None if self.sidecar is None else self.sidecar.control_state()

    def extra_metrics(self) -> list[tuple[str, str, str, int | float]]:
        """(name, help, counter or gauge, value) of parts that not every proxy has."""
        found: list[tuple[str, str, str, int | float]] = [
            (
                "fastmesh_dns_failures_total",
                "Host names that could not be resolved.",
                "counter",
                self.resolver.failures,
            )
        ]
        return found + (self.sidecar.metrics() if self.sidecar is not None else [])

    def certificate_contexts(self) -> list[dict[str, Any]]:
        """The certificates of each TLS context in force; parsed once for each config."""
        from fastmesh.agent.x509 import certificates

        config = self.publisher.config
        if config is None:
            return []
        if self._certificates[0] is not config:
            found = [
                {
                    "context": tls["name"],
                    "server": tls["server"],
                    "cert_chain": certificates(tls.get("cert", b"")),
                    "ca_cert": certificates(tls.get("ca", b"")),
                }
                for tls in config["tls"]
            ]
            self._certificates = (config, found)
        return self._certificates[1]

    def certificates(self) -> list[dict[str, Any]]:
        """One entry for the own certificate of each context: context, subject, serial, not_after."""
        found = []
        for context in self.certificate_contexts():
            for each in context["cert_chain"][:1]:
                if "not_after" in each:
                    names = [name.partition(":")[2] for name in each["subject_alt_names"]]
                    subject = names[0] if names else each["subject"]
                    found.append({**each, "context": context["context"], "subject": subject})
        return found
