"""The control protocol's server: a ROUTER for requests, an XPUB for updates, both CURVE-encrypted.

Owns the two sockets, what is answered to whom, and how sessions become endpoints. It must not know
resources or HTTP. Every frame of the ROUTER carries its sender's CURVE key (set by ZeroMQ after the gate
has seen it), so a session is bound to a key and cannot be taken over by a routing id. Whoever has not said
a valid hello is answered challenge, join and hello, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import zmq
import zmq.asyncio

from fastmesh.model import wire
from fastmesh_control.identities import Denied, Identities
from fastmesh_control.mesh import MAX_PORTS, Mesh, Update
from fastmesh_control.metrics import Metrics
from fastmesh_control.registry import GRACE_SECONDS, MAX_SESSIONS, Registry, Session
from fastmesh_control.rotation import NotNow, Rotation
from fastmesh_control.store import EndpointRow, StateError
from fastmesh_control.zap import ROUTER_DOMAIN, UPDATES_DOMAIN, Gate

log = logging.getLogger("fastmesh.control")

Message = dict[str, Any]
Answer = list[tuple[str, dict[str, Any]]]

QUEUE = 10_000  # frames waiting for one peer; beyond, updates are dropped and repaired by the subscriber
REQUESTS_QUEUED = 64  # of one sidecar, at 2 MiB at most each; beyond, TCP holds it back
HANDSHAKE_MS = 10_000
PING_MS, PING_TIMEOUT_MS = 5_000, 15_000
SWEEP_SECONDS = 0.5
FETCH_SECONDS = 5.0
WAIT_PAUSE = 0.005


@dataclass(frozen=True)
class Peer:
    """Who sent a frame."""

    route: bytes
    key: str


@dataclass(frozen=True)
class Outstanding:
    """What is missing until a version is served everywhere."""

    late: dict[str, list[str]]  # proxy -> topics
    refused: dict[str, dict[str, str]]  # proxy -> topic -> reason
    sessions: list[Session]  # those that are late


def _shown(text: str) -> str:
    """A sidecar's words on one line, fit for a log and a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _bind(socket: Any, address: str) -> None:
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        where = address.removeprefix("tcp://")
        raise OSError(error.errno, f"cannot listen on {where}: {zmq.strerror(error.errno or 0)}") from None


class ControlServer:
    """Serves the protocol until cancelled."""

    def __init__(
        self,
        mesh: Mesh,
        identities: Identities,
        rotation: Rotation,
        registry: Registry,
        metrics: Metrics,
        curve_secret: bytes,
        router_address: str,
        updates_address: str,
    ) -> None:
        self._mesh = mesh
        self._identities = identities
        self._rotation = rotation
        self.registry = registry
        self._metrics = metrics
        self.incarnation = secrets.token_hex(8)
        self._context = zmq.asyncio.Context(1)
        self.gate = Gate(self._context, registry.keys)
        self._router: Any = self._socket(zmq.ROUTER, curve_secret, ROUTER_DOMAIN)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.MAXMSGSIZE, wire.MAX_REQUEST)
        self._router.setsockopt(zmq.RCVHWM, REQUESTS_QUEUED)
        self._updates: Any = self._socket(zmq.XPUB, curve_secret, UPDATES_DOMAIN)
        self._updates.setsockopt(zmq.MAXMSGSIZE, 4096)  # subscriptions are all that comes in
        _bind(self._router, router_address)
        _bind(self._updates, updates_address)
        self._fetches: dict[int, tuple[Session, asyncio.Future[dict[str, Any]]]] = {}
        self._serial = 0
        self._progress: set[asyncio.Future[None]] = set()
        self._swept = time.monotonic()
        self._grace_until = self._swept + GRACE_SECONDS
        mesh.on_update = self._publish

    def _socket(self, kind: int, secret: bytes, domain: bytes) -> Any:
        socket: Any = self._context.socket(kind)
        socket.linger = 500
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, domain)
        socket.setsockopt(zmq.SNDHWM, QUEUE)
        socket.setsockopt(zmq.RCVHWM, QUEUE)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        socket.setsockopt(zmq.HEARTBEAT_IVL, PING_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, PING_TIMEOUT_MS)
        return socket

    async def run(self) -> None:
        """Serve until cancelled; the failure of one part ends all."""
        async with asyncio.TaskGroup() as group:
            for part in (
                self.gate.run(),
                self._serve_requests(),
                self._serve_subscriptions(),
                self._sweep(),
                self._pulse(),
            ):
                group.create_task(part)

    def close(self) -> None:
        self.gate.close()
        self._context.destroy(linger=200)

    # -- loops

    async def _serve_requests(self) -> None:
        while True:
            frames = await self._router.recv_multipart(copy=False)
            try:
                self._take(frames)
            except Exception:  # a fault of ours in one request must not end the mesh's control
                log.exception("a request failed")
            if self._router.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                await asyncio.sleep(0)  # a queue of requests must not starve the API and the leases

    async def _serve_subscriptions(self) -> None:
        while True:
            frames = await self._updates.recv_multipart()
            wanted = frames[0]
            topic = wanted[1:].rstrip(wire.TOPIC_END)
            if wanted[:1] == b"\x01" and topic.startswith(wire.BARRIER.encode()):
                self._send_update(topic.decode(errors="replace"), wire.encode("barrier"))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._sweep_once(time.monotonic())
            try:
                self._rotation.tick(time.time())
            except (StateError, NotNow) as error:
                log.error("rotation: %s", error)

    def _sweep_once(self, now: float) -> None:
        stalled = now - self._swept - SWEEP_SECONDS
        self._swept = now
        if stalled > SWEEP_SECONDS:
            # We stood still (stopped, a slow disk, a huge apply) and have yet to read what came meanwhile:
            # that says nothing of the sidecars, which must not leave the lists all at once.
            self.registry.extend(stalled)
            self._grace_until += stalled if self._grace_until else 0.0
        gone = self.registry.expire(now)
        for session in gone:
            log.warning("%s: no heartbeat for %g s; taken off the lists", session.name, self.registry.lease)
        lost = [s.instance for s in gone]
        if self._grace_until and now > self._grace_until:
            self._grace_until = 0.0
            lost += [i for i in self._mesh.state.endpoints if i not in self.registry.by_instance]
        if lost:
            self._mesh.endpoints_down(lost)
            self._tell_progress()

    async def _pulse(self) -> None:
        while True:
            await asyncio.sleep(self.registry.heartbeat)
            self._send_update(
                wire.PULSE, wire.encode("pulse", epoch=self._mesh.epoch, version=self._mesh.version)
            )

    # -- sending

    def _send(self, route: bytes, kind: str, **fields: Any) -> bool:
        """Send without waiting; False when the peer has gone or its queue is full."""
        sent = self._router.send_multipart([route, wire.encode(kind, **fields)], zmq.NOBLOCK)
        if sent.done() and sent.exception() is None:
            return True
        sent.cancel()
        self._metrics.undelivered.inc()
        return False

    def _send_update(self, topic: str, frame: bytes) -> None:
        sent = self._updates.send_multipart([topic.encode() + wire.TOPIC_END, frame], zmq.NOBLOCK)
        if not sent.done() or sent.exception() is not None:
            sent.cancel()
            self._metrics.undelivered.inc()

    def _publish(self, updates: list[Update]) -> None:
        for u in updates:
            frame = wire.encode(
                "update", epoch=self._mesh.epoch, version=u.version, prev=u.prev, data=u.payload
            )
            self._send_update(u.topic, frame)
            self._metrics.updates.inc()

    # -- requests

    def _take(self, frames: list[Any]) -> None:
        if len(frames) != 2:
            self._metrics.malformed.inc()
            return
        try:
            peer = Peer(frames[0].bytes, frames[1].get("User-Id"))
        except zmq.ZMQError:
            self._metrics.malformed.inc()
            return
        try:
            message = wire.decode(frames[1].bytes, wire.REQUESTS, wire.MAX_REQUEST)
        except wire.WireError as error:
            self._metrics.malformed.inc()
            self._send(peer.route, "error", code=wire.E_MALFORMED, message=str(error)[: wire.MAX_REASON])
            return
        kind = message["t"]
        self._metrics.requests.labels(kind).inc()
        echo = {"re": message["id"]} if "id" in message else {}
        try:
            if kind in ("challenge", "join", "hello"):
                answer = getattr(self, f"_do_{kind}")(peer, message)
            else:
                answer = getattr(self, f"_do_{kind}")(self._session(peer), message)
        except Denied as denied:
            self._metrics.refused.labels(denied.code).inc()
            extra = {"nonce": denied.nonce} if denied.nonce else {}
            self._send(peer.route, "error", **echo, code=denied.code, message=str(denied), **extra)
        except StateError as error:
            log.error("%s: %s", kind, error)
            self._send(
                peer.route,
                "error",
                **echo,
                code=wire.E_UNAVAILABLE,
                message="the control plane cannot write its state",
            )
        else:
            for reply, fields in answer:
                if not self._send(peer.route, reply, **echo, **fields):
                    break

    def _session(self, peer: Peer) -> Session:
        session = self.registry.by_route.get(peer.route)
        if session is None or session.key != peer.key:
            raise Denied(wire.E_NO_SESSION, "say hello first")
        return session

    def _do_challenge(self, peer: Peer, message: Message) -> Answer:
        return [("nonce", {"nonce": self._identities.nonce(peer.key)})]

    def _do_join(self, peer: Peer, message: Message) -> Answer:
        self._negotiate(message)
        return [self._identities.join(peer.key, message)]

    def _negotiate(self, message: Message) -> int:
        low, high = message["protocol"]
        version = wire.negotiate(low, high)
        if version is None:
            ours = f"{wire.PROTOCOL_MIN} to {wire.PROTOCOL_VERSION}"
            raise Denied(
                wire.E_PROTOCOL, f"this control plane speaks protocol {ours}, the sidecar {low} to {high}"
            )
        return version

    def _do_hello(self, peer: Peer, message: Message) -> Answer:
        version = self._negotiate(message)
        row = self._identities.identify(peer.key, message)
        info = message["info"]
        if (info["service"], info["namespace"]) != (row.service, row.namespace):
            wanted = f"{info['namespace']}/{info['service']}"
            raise Denied(
                wire.E_IDENTITY, f"the identity is for {row.namespace}/{row.service}, not for {wanted}"
            )
        now = time.monotonic()
        rival = self.registry.holder(message["instance"], message["boot"], now)
        if rival is not None and (message.get("yielding") or self.registry.was_beaten(message["boot"])):
            raise Denied(wire.E_SUPERSEDED, "another process still uses this instance id")
        if len(self.registry.by_route) >= MAX_SESSIONS:
            raise Denied(wire.E_UNAVAILABLE, f"{MAX_SESSIONS} sidecars are connected; no more are taken")
        session = Session(
            peer.route,
            peer.key,
            row.instance,
            message["boot"],
            row.namespace,
            row.service,
            row.service_account,
            self._identities.spiffe_id(row),
            info,
            tuple(message["patterns"]),
            row.cert_expires,
            0.0,
            time.time(),
        )
        if not self._mesh.service_known(row.namespace, row.service, info["app_port"]):
            text = f"{row.namespace}/{row.service} has {MAX_PORTS} application ports; no more are taken"
            raise Denied(wire.E_UNAVAILABLE, text)
        beaten = self.registry.open(session, now)
        if beaten is not None:
            log.warning(
                "%s: a second process says hello with this instance id; the newer is kept", session.name
            )
            text = "a newer process uses this instance id (was the state directory copied?)"
            self._send(beaten.route, "error", code=wire.E_SUPERSEDED, message=text)
        log.info("%s: connected (release %s)", session.name, info.get("release", "?"))
        return [
            (
                "welcome",
                {
                    "protocol": version,
                    "session": session.id,
                    "epoch": self._mesh.epoch,
                    "incarnation": self.incarnation,
                    "heartbeat": self.registry.heartbeat,
                    "lease": self.registry.lease,
                },
            )
        ]

    def _do_renew(self, session: Session, message: Message) -> Answer:
        return [self._identities.renew(session, message)]

    def _do_subscribe(self, session: Session, message: Message) -> Answer:
        session.patterns = tuple(message["patterns"])
        return [("ok", {})]

    def _do_sync(self, session: Session, message: Message) -> Answer:
        self.registry.touch(session, time.monotonic())
        changed, removed = self._mesh.differing(session.patterns, message["known"], message.get("topics"))
        base = {"epoch": self._mesh.epoch, "version": self._mesh.version}
        parts: list[dict[str, Any]] = [{}]
        size = 0
        for topic in changed:
            held = self._mesh.topics[topic]
            if size > wire.PART_BYTES:
                parts.append({})
                size = 0
            parts[-1][topic] = [held.version, held.payload]
            size += len(held.payload) + len(topic)
        last = len(parts) - 1
        return [
            ("snapshot", {**base, "topics": part, "removed": removed if i == last else [], "last": i == last})
            for i, part in enumerate(parts)
        ]

    def _do_ack(self, session: Session, message: Message) -> Answer:
        self.registry.touch(session, time.monotonic())
        self.registry.ack(session, message["versions"], message.get("full", False), message.get("status"))
        if len(session.applied) > wire.MAX_TOPICS:
            session.applied.clear()
            raise Denied(wire.E_MALFORMED, f"more than {wire.MAX_TOPICS} topics are acknowledged")
        info, name = session.info, session.instance
        if session.status.get("unlisted"):
            self._mesh.endpoints_down([name])
        else:
            who = (name, session.namespace, session.service, session.identity)
            labels = info.get("labels", {})
            self._mesh.endpoint_up(EndpointRow(*who, info["address"], info["port"], info["app_port"], labels))
        self._tell_progress()
        return []

    def _do_nack(self, session: Session, message: Message) -> Answer:
        self.registry.touch(session, time.monotonic())
        reason = _shown(message["reason"])
        if len(session.refused) < wire.MAX_PATTERNS or message["topic"] in session.refused:
            session.refused[message["topic"]] = (message["version"], reason)
        self._metrics.nacks.inc()
        log.warning(
            "%s: refuses %s version %d: %s",
            session.name,
            message["topic"],
            message["version"],
            reason,
        )
        self._tell_progress()
        return []

    def _do_heartbeat(self, session: Session, message: Message) -> Answer:
        self.registry.touch(session, time.monotonic())
        session.status.update(message.get("status", {}))
        return [("alive", {"epoch": self._mesh.epoch, "digest": self._mesh.digest(session.patterns)})]

    def _do_report(self, session: Session, message: Message) -> Answer:
        asked = self._fetches.get(message.get("re", -1))
        if asked is not None and asked[0] is session and not asked[1].done():
            try:
                asked[1].set_result({"data": wire.unpack_payload(message["data"])})
            except wire.WireError as error:
                asked[1].set_result({"error": str(error)})
        return []

    def _do_goodbye(self, session: Session, message: Message) -> Answer:
        log.info("%s: said goodbye", session.name)
        self.registry.close(session)
        self._mesh.endpoints_down([session.instance])
        self._tell_progress()
        return [("ok", {})]

    # -- what the API asks

    def remove(self, session: Session) -> None:
        """End a session whose proxy has been removed."""
        self.registry.close(session)
        self._mesh.endpoints_down([session.instance])
        self._send(session.route, "error", code=wire.E_IDENTITY, message="this sidecar has been removed")

    async def fetch(self, session: Session, what: str) -> dict[str, Any] | None:
        """Ask a sidecar for a report: {"data"} or {"error"}; None when it does not answer in time."""
        self._serial += 1
        serial = self._serial
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._fetches[serial] = (session, future)
        try:
            if not self._send(session.route, "fetch", id=serial, what=what):
                return None
            return await asyncio.wait_for(future, FETCH_SECONDS)
        except TimeoutError:
            return None
        finally:
            del self._fetches[serial]

    def _tell_progress(self) -> None:
        for future in self._progress:
            if not future.done():
                future.set_result(None)
        self._progress.clear()

    def _refusal(self, session: Session, topic: str, version: int) -> str:
        """Why a session refuses a topic as of a version; what it said of an older one does not count."""
        refused, reason = session.refused.get(topic, (0, ""))
        return (
            reason if topic in self._mesh.topics and refused >= self._mesh.version_at(topic, version) else ""
        )

    def outstanding(self, version: int, among: Iterable[Session] | None = None) -> Outstanding:
        """Who has yet to serve the mesh as of a version, and who refuses what of it."""
        found = Outstanding({}, {}, [])
        for session in list(self.registry.by_instance.values() if among is None else among):
            if self.registry.by_instance.get(session.instance) is not session:
                continue  # it has ended since it was late: whoever comes back is served the newest
            behind = self._mesh.late(session.patterns, session.applied, version)
            if behind:
                found.late[session.name] = behind
                found.sessions.append(session)
            no = {t: r for t in behind if (r := self._refusal(session, t, version))}
            if no:
                found.refused[session.name] = no
        if among is None:
            # Endpoints from before a restart whose sidecars have yet to come back: who knows what they serve.
            for row in self._mesh.state.endpoints.values():
                if row.instance not in self.registry.by_instance:
                    found.late[f"{row.service}-{row.instance}.{row.namespace}"] = ["not connected"]
        return found

    async def wait_applied(self, version: int, timeout: float) -> Outstanding:
        """Wait until every live proxy serves a version, one refuses it, or the time is up."""
        loop = asyncio.get_running_loop()
        began, deadline = loop.time(), loop.time() + timeout
        found = self.outstanding(version)
        while True:
            left = deadline - loop.time()
            if not found.late:
                self._metrics.converged.observe(loop.time() - began)
            if not found.late or found.refused or left <= 0:
                return found
            future: asyncio.Future[None] = loop.create_future()
            self._progress.add(future)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(future, left)
            self._progress.discard(future)
            # Acks come in crowds: only who was late is looked at again, and all once when none of them is.
            await asyncio.sleep(min(WAIT_PAUSE, max(0.0, deadline - loop.time())))
            found = self.outstanding(version, found.sessions) if found.sessions else found
            if not found.late or not found.sessions:
                found = self.outstanding(version)
