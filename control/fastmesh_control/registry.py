"""Who is connected: sessions of sidecars, their leases, what each has applied.

Owns sessions and the rule of two processes with one instance id. Pure: time is an argument, nothing is
sent or stored here. It must not know topics' content; endpoints follow from sessions in server.py.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

LEASE_SECONDS = 6.0
HEARTBEAT_SECONDS = 2.0
# After a restart of the control plane: how long endpoints stay listed before their sidecars have come back.
# Above the subscribers' longest pause between tries (5 s) and what they need to find out.
GRACE_SECONDS = 15.0
MAX_SESSIONS = 50_000
BEATEN = 10_000  # superseded processes remembered, so that none takes its instance id back by accident


@dataclass
class Session:
    """One sidecar's process, from its hello to its end."""

    route: bytes  # ZeroMQ routing id
    key: str  # CURVE public key
    instance: str
    boot: str
    namespace: str
    service: str
    service_account: str
    identity: str
    info: dict[str, Any]
    patterns: tuple[str, ...]
    cert_expires: float
    lease_until: float
    since: float
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    ready: bool = False  # its workers have applied a config: it may be listed as an endpoint
    applied: dict[str, int] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)  # topic -> version and reason of a nack
    status: dict[str, Any] = field(default_factory=dict)
    renewed: float | None = None  # when it last got a certificate that its workers have not said to serve
    renewed_at: int = 0  # the generation of its config then

    def renewing(self, now: float) -> None:
        """It has been given a new certificate."""
        self.renewed, self.renewed_at = now, int(self.status.get("generation", 0))

    def settled(self, before: float) -> bool:
        """Do its workers serve with its newest certificate, given out before this time?"""
        serves = int(self.status.get("generation", 0)) > self.renewed_at
        if self.renewed is not None and self.renewed <= before and serves:
            self.renewed = None
        return self.renewed is None

    @property
    def name(self) -> str:
        return f"{self.service}-{self.instance}.{self.namespace}"


class Registry:
    """Sessions by route and by instance: at most one a route, at most one an instance."""

    def __init__(self, lease: float = LEASE_SECONDS, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self.lease = lease
        self.heartbeat = heartbeat
        self.by_route: dict[bytes, Session] = {}
        self.by_instance: dict[str, Session] = {}
        self.keys: dict[str, int] = {}  # CURVE keys of live sessions: who may read updates
        self._beaten: dict[str, None] = {}
        self.superseded = 0
        self.expired = 0

    def holder(self, instance: str, boot: str, now: float) -> Session | None:
        """The live session of another process that uses this instance id."""
        held = self.by_instance.get(instance)
        return held if held is not None and held.boot != boot and held.lease_until > now else None

    def was_beaten(self, boot: str) -> bool:
        """Has a newer process taken this one's instance id?"""
        return boot in self._beaten

    def open(self, session: Session, now: float) -> Session | None:
        """Begin a session. The newer wins: the session it supersedes is ended and returned, if it was
        another process's."""
        rival = self.holder(session.instance, session.boot, now)
        old = self.by_instance.get(session.instance)
        if old is not None:
            session.ready = old.ready and old.boot == session.boot
            self.close(old)
        same_route = self.by_route.get(session.route)
        if same_route is not None:
            self.close(same_route)
        session.lease_until = now + self.lease
        self.by_route[session.route] = session
        self.by_instance[session.instance] = session
        self.keys[session.key] = self.keys.get(session.key, 0) + 1
        self._beaten.pop(session.boot, None)
        if rival is not None:
            self.superseded += 1
            self._beaten[rival.boot] = None
            if len(self._beaten) > BEATEN:
                del self._beaten[next(iter(self._beaten))]
        return rival

    def touch(self, session: Session, now: float) -> None:
        """It lives."""
        session.lease_until = now + self.lease

    def extend(self, seconds: float) -> None:
        """Time in which no sign of life could be read counts for no lease."""
        for session in self.by_route.values():
            session.lease_until += seconds

    def close(self, session: Session) -> None:
        """End a session. Harmless when it has ended."""
        if self.by_route.get(session.route) is not session:
            return
        del self.by_route[session.route]
        if self.by_instance.get(session.instance) is session:
            del self.by_instance[session.instance]
        self.keys[session.key] -= 1
        if not self.keys[session.key]:
            del self.keys[session.key]

    def expire(self, now: float) -> list[Session]:
        """End the sessions whose leases have run out."""
        gone = [s for s in self.by_route.values() if s.lease_until <= now]
        for session in gone:
            self.close(session)
            self.expired += 1
        return gone

    def ack(
        self, session: Session, versions: dict[str, int], full: bool, status: dict[str, Any] | None
    ) -> bool:
        """Record what a sidecar's workers serve; True when it became ready by this."""
        if full:
            session.applied = dict(versions)
        else:
            session.applied.update(versions)
        for topic, version in versions.items():
            if topic in session.refused and session.refused[topic][0] <= version:
                del session.refused[topic]
        if status:
            session.status.update(status)
        became, session.ready = not session.ready, True
        return became

    def find(self, name: str) -> list[Session]:
        """Sessions by full name, or by name or instance without the namespace."""
        return [
            s for s in self.by_instance.values() if name in (s.name, s.instance, s.name.rpartition(".")[0])
        ]
