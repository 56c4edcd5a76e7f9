"""What makes an agent a sidecar's: the control plane's state becomes the config that is served, and is
acknowledged.

Owns which fragments are in force. The session is the subscriber's, the identity certs.py's, the form of the
config assemble.py's.
"""

from __future__ import annotations

import _socket

from fastmesh.agent.assemble import as_served, assemble, identity_contexts, reads_files
from fastmesh.agent.certs import Identity
from fastmesh.agent.gate import Gate, when_quiet
from fastmesh.agent.subscriber import EXIT_JOIN_REFUSED, Subscriber
from fastmesh.compile.fragment import PROTOCOL_LABEL
from fastmesh.compile.locality import place_labels

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastmesh.agent.assemble import Fragments
    from fastmesh.agent.main import Agent
    from fastmesh.model.ir import Config

# How often the heartbeats' account of this sidecar is brought up to date.
STATUS_SECONDS = 5.0
# What `fastmesh proxy-config` can ask for, and the view of the admin endpoint that shows it.
REPORTS = {
    "config": "/config_dump",
    "clusters": "/clusters",
    "certs": "/certs",
    "stats": "/stats",
    "server_info": "/server_info",
}


def local_address(control: str) -> str:
    """The address from which the control plane (tcp://HOST:PORT) is reached: others can reach this one
    there."""
    host, _, port = control.rpartition("/")[2].rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        family, kind, _, _, address = _socket.getaddrinfo(
            host.encode("ascii"), int(port), 0, _socket.SOCK_DGRAM
        )[0]
        probe = _socket.socket(family, kind)
        try:
            probe.connect(address)  # a datagram socket: this asks the routing table and sends nothing
            return str(probe.getsockname()[0])
        finally:
            probe.close()
    except (OSError, ValueError):  # also a host name that is not ASCII
        return "127.0.0.1"


class Sidecar:
    """One agent's membership in the mesh."""

    def __init__(self, agent: Agent) -> None:
        from fastmesh import __version__

        spec = agent.spec["sidecar"]
        bundle: dict[str, Any] = spec["bundle"]
        self.spiffe_id: str = bundle["spiffe_id"]
        self.source = ""
        self._agent = agent
        self._spec = spec
        self._log = agent.log
        self._trust_domain: str = bundle["trust_domain"]
        self._state: dict[str, Any] | None = None
        self._good: Fragments = {}  # in force
        self._proven: Fragments = {}  # of those with files: as the workers took them up
        self._offers = 0
        self._refusals: dict[str, str] = {}  # topic -> why its content is not served
        self._told: dict[str, str] = {}
        self._applied = 0
        self._fatal = ""
        self._gate: Gate | None = None  # while the application has not answered yet
        self._retired = False
        self._identity = Identity(agent.loop, agent.spec["state"], self.spiffe_id)
        self._identity.on_change = self._identity_changed
        self._identity.on_warning = self._log.warning
        info: dict[str, Any] = {
            "address": spec["address"] or local_address(bundle["control"]),
            "port": spec["inbound"][1],
            "app_port": spec["app"][1],
            "labels": {
                **({"version": spec["version"]} if spec["version"] else {}),
                **place_labels(spec["locality"]),
                **({PROTOCOL_LABEL: spec["app_protocol"]} if spec["app_protocol"] == "TCP" else {}),
            },
            "release": __version__,
            "workers": agent.spec["workers"],
        }
        self._subscriber = Subscriber(
            agent.loop, bundle, self._identity, agent.spec["state"], self._on_state, info
        )
        self._subscriber.on_warning = self._log.warning
        self._subscriber.on_fatal = self._refused
        self._subscriber.on_fetch = self._report
        self._begin_gate(spec.get("gate", ""))

    def start(self) -> None:
        self._log.info(
            f"identity {self.spiffe_id}", certificate="kept" if self._identity.has_cert else "none yet"
        )
        self._subscriber.start()
        self._agent.loop.call_later(STATUS_SECONDS, self._tell_status)

    # --- whether others are told of this workload

    def _begin_gate(self, kind: str) -> None:
        if not kind:
            return
        self._subscriber.advertise(False)
        if kind != "never":
            path = kind if kind.startswith("/") else ""
            self._gate = Gate(self._agent.loop, self._spec["app"], path, self._app_answers)
            self._gate.start()

    def _app_answers(self) -> None:
        self._gate = None
        if not self._retired:
            self._log.info("the application answers: others are told of it")
            self._subscriber.advertise(True)

    def retire(self, done: Callable[[], object]) -> None:
        """Off the lists, but everything goes on; `done` when no request to the application is in flight."""
        self._retired = True
        self._subscriber.advertise(False)
        when_quiet(self._agent.loop, self._in_flight, done)

    def _in_flight(self) -> int:
        from fastmesh._core.shm import clusters as cells
        from fastmesh._core.shm.segment import cluster_id

        cell = self._agent.publisher.cells.clusters.get(cluster_id(f"inbound|{self._spec['app'][1]}||"))
        return 0 if cell is None else int(cells.stats(self._agent.segment, cell)["active"])

    def goodbye(self, done: Callable[[], object]) -> None:
        """Have others stop sending; `done` when the control plane has heard it (or cannot be reached)."""
        self._subscriber.goodbye(done)

    def close(self) -> None:
        if self._gate is not None:
            self._gate.close()
        self._subscriber.close()
        self._identity.close()

    # --- state in, config out

    def _on_state(self, state: dict[str, Any]) -> None:
        self._state = state
        self._serve()

    def _identity_changed(self) -> None:
        self._log.info("certificate taken up", spiffe_id=self.spiffe_id, not_after=self._identity.not_after)
        self._serve()

    def _serve(self) -> None:
        """Publish what is desired now. Without a certificate there is nothing that could be served safely."""
        if self._state is None or not self._identity.has_cert:
            return
        self._told, self._refusals = self._refusals, {}
        fragments: Fragments = dict(self._state["services"])
        config, problems = self._assemble(fragments)
        if problems:
            fragments = self._fallback(fragments, problems)
            config, _ = self._assemble(fragments)
        self._offer(self._state, config, fragments, self._blame)

    def _offer(
        self,
        state: dict[str, Any],
        config: Config,
        fragments: Fragments,
        refused: Callable[[dict[str, Any], Fragments, str], None],
    ) -> None:
        self._offers += 1
        mine = self._offers

        def accepted(generation: int, reason: str) -> None:
            if reason:
                refused(state, fragments, reason)
            else:
                self._good = fragments
                self.source = state["source"]

        def applied(generation: int, reason: str) -> None:
            if reason:
                self._log.error("config is not served by all workers", reason=reason)
                if mine == self._offers and refused == self._blame:
                    self._without_files(state, fragments, reason)
                return
            self._proven = {t: as_served(f, config) for t, f in fragments.items() if reads_files(f)}
            versions = {topic: v for topic, v in state["versions"].items() if topic not in self._refusals}
            self._subscriber.ack(versions, generation, self._agent.spec["workers"])
            if generation != self._applied:
                self._applied = generation
                self._log.info("config applied by all workers", generation=generation, source=state["source"])

        self._agent.publish(config, accepted, applied)

    def _assemble(self, fragments: Fragments) -> tuple[Config, dict[str, str]]:
        state: dict[str, Any] = self._state or {}
        identity = self._identity
        denied = state["trust"].get("denied", ())
        contexts = identity_contexts(identity.key, identity.chain, identity.roots, self._trust_domain, denied)
        policy = state["policy"]
        return assemble(
            self._agent.spec["node_id"],
            self._spec,
            policy["mtls"],
            fragments,
            contexts,
            policy["limits"],
            policy["authorization"],
        )

    def _fallback(self, fragments: Fragments, problems: dict[str, str]) -> Fragments:
        """The topics without problem, and of the others what served before."""
        for topic, reason in problems.items():
            self._refusals[topic] = reason
            if self._told.get(topic) != reason:
                self._log.error(f"{topic} cannot be served: {reason}; what served before stays")
            self._subscriber.nack(topic, reason)
        kept = {topic: fragment for topic, fragment in fragments.items() if topic not in problems}
        kept.update({topic: self._good[topic] for topic in problems if topic in self._good})
        return kept

    def _blame(self, state: dict[str, Any], fragments: Fragments, reason: str) -> None:
        """The whole cannot be served: find the topics that are to blame and serve the others."""
        from fastmesh.compile.cells import CellMap
        from fastmesh.compile.snapshot import pack

        problems = {}
        for topic, fragment in fragments.items():
            if fragment == self._good.get(topic):
                continue
            config, _ = self._assemble({**self._good, topic: fragment})
            try:
                pack(self._agent.resolver.addressed(config), CellMap())
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                problems[topic] = str(error)
        if not problems:
            self._give_up(state, fragments, reason)
            return
        kept = self._fallback(fragments, problems)
        self._offer(state, self._assemble(kept)[0], kept, self._give_up)

    def _without_files(self, state: dict[str, Any], fragments: Fragments, reason: str) -> None:
        """A worker refused what only a worker can judge: certificates. Those in files of this machine may be
        what is wrong: without them (or as they were) the rest goes on, above all new endpoints and our own
        renewed certificate."""
        problems = dict.fromkeys((t for t, f in fragments.items() if reads_files(f)), reason)
        if not problems:
            self._give_up(state, fragments, reason)
            return
        self._good = {**self._good, **self._proven}
        for topic in problems.keys() - self._proven.keys():
            self._good.pop(topic, None)
        kept = self._fallback(fragments, problems)
        self._offer(state, self._assemble(kept)[0], kept, self._give_up)

    def _give_up(self, state: dict[str, Any], fragments: Fragments, reason: str) -> None:
        self._log.error("config cannot be served; what served before stays", reason=reason)

    # --- the control plane's questions, and ours

    def _refused(self, code: str, message: str) -> None:
        self._fatal = f"join refused: {message} ({code})"
        self._log.error(self._fatal)
        self._agent.fatal(EXIT_JOIN_REFUSED, self._fatal)

    def _report(self, what: str) -> dict[str, Any]:
        """For `fastmesh proxy-config`."""
        from fastmesh.agent import views

        if what not in REPORTS:
            return {"error": f"{what}: not a report that a sidecar can give"}
        _, kind, text = views.answer(self._agent, "GET", REPORTS[what], {"format": "json"})
        return {"type": kind, "body": text}

    def _tell_status(self) -> None:
        self._agent.loop.call_later(STATUS_SECONDS, self._tell_status)
        counters = self._agent.segment.counters()
        self._subscriber.status(
            generation=self._agent.publisher.generation,
            counters={name: counters[name] for name in ("rq_total", "rq_done", "cx_total")},
        )

    def waiting_for(self) -> str:
        """What is missing before the first config can be served."""
        if self._fatal:
            return self._fatal
        if not self._identity.has_cert:
            return f"no certificate yet: {self._subscriber.last_error or 'joining'}"
        return f"no config yet: {self._subscriber.last_error or 'waiting for the control plane'}"

    def control_state(self) -> dict[str, Any]:
        state = self._state or {}
        return {
            "connected": self._subscriber.connected,
            "application": self._app_state(),
            "last_error": self._subscriber.last_error,
            "source": self.source,
            "epoch": state.get("epoch", ""),
            "versions": state.get("versions", {}),
            "refused": self._refusals,
        }

    def _app_state(self) -> str:
        if self._gate is not None:
            return f"not advertised: {self._gate.last_error}"
        if self._retired:
            return "not advertised: about to leave"
        return "not advertised: it serves nobody" if self._spec.get("gate") == "never" else "advertised"

    def metrics(self) -> list[tuple[str, str, str, int | float]]:
        connected = 1 if self._subscriber.connected else 0
        found: list[tuple[str, str, str, int | float]] = [
            (
                "fastmesh_control_connected",
                "1 while the control plane's session is in step.",
                "gauge",
                connected,
            ),
            (
                "fastmesh_identity_persisted",
                "1 when key and certificate are kept on disk.",
                "gauge",
                1 if self._identity.persisted else 0,
            ),
        ]
        for name, value in self._subscriber.counters.items():
            found.append((f"fastmesh_control_{name}_total", "See agent/subscriber.py.", "counter", value))
        return found
