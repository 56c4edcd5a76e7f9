"""The way from one signer to the next without a request lost: first all trust both, then all get a
certificate of the new one, then nobody trusts the old one.

Owns the rule of when a step may be taken: not while it would cut a workload off that has a valid certificate.
It must not know files or sockets; what is published follows from `trust()`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastmesh.model import wire
from fastmesh_control.keyring import DISTRIBUTE, IDLE, REISSUE, Keyring
from fastmesh_control.registry import Registry, Session
from fastmesh_control.signer import Signer, key_id, make_root
from fastmesh_control.store import ProxyRow, Store

log = logging.getLogger("fastmesh.control")

SHOWN = 20  # workloads that a status names
SETTLE_SECONDS = 2.0  # after a certificate was given out, until its holder's word counts that it serves it
COSTS = 50  # a look at all workloads is followed by a rest of so many times as long
AHEAD = 0.2  # of a root of our own: how much of its life may be left when the next one is made
WARN_SECONDS = 30 * 24 * 3600.0


class NotNow(Exception):
    """A step that may not be taken; the text says why."""


@dataclass(frozen=True)
class Waiting:
    """A workload that the next step would cut off."""

    name: str
    why: str
    expires: float


class Rotation:
    """Takes the steps."""

    def __init__(self, keyring: Keyring, store: Store, registry: Registry, trust_domain: str) -> None:
        self._keyring = keyring
        self._store = store
        self._registry = registry
        self._trust_domain = trust_domain
        self._publish: Callable[[], object] = lambda: None
        self._version: Callable[[], int] = lambda: 0
        self._rest_until = 0.0
        self.steps = 0
        self.denied = store.denied()
        """Identities that are refused everywhere: since when, and why."""

    def connect(self, publish: Callable[[], object], version: Callable[[], int]) -> None:
        """`publish` is called when what `trust` says has changed; `version` gives the trust topic's."""
        self._publish, self._version = publish, version

    def trust(self) -> dict[str, Any]:
        """What the trust topic says of certificates."""
        said: dict[str, Any] = {"roots": self._keyring.roots_pem()}
        if self._keyring.reissue:
            said["reissue"] = self._keyring.reissue
        if self.denied:
            said["denied"] = sorted(self.denied)
        return said

    # -- what an operator asks for

    def begin(self, signer: Signer | None = None) -> None:
        """Go over to this signer, or to a new root of our own. NotNow, StateError."""
        signer = signer or make_root(self._trust_domain)
        if signer.id == self._keyring.active.id:
            raise NotNow("this certificate signs already")
        if self._keyring.phase == REISSUE:
            raise NotNow("a rotation is under way: it has to end before the next begins")
        self._keyring.begin(signer)
        log.info("rotation: from %s to %s: its root is given to all", self._keyring.active.id, signer.id)
        self._changed()

    def cancel(self) -> None:
        """Give the signer to come up. NotNow once it signs."""
        if self._keyring.phase != DISTRIBUTE:
            raise NotNow(
                "the new signer signs already: rotate again to leave it"
                if self._keyring.phase == REISSUE
                else "no rotation is under way"
            )
        self._keyring.cancel()
        log.info("rotation: cancelled")
        self._changed()

    def proceed(self, force: bool) -> None:
        """Take the next step now. NotNow names whom it would cut off, unless it is forced."""
        waiting = self.waiting(time.time())
        if self._keyring.phase == IDLE:
            raise NotNow("no rotation is under way")
        if waiting and not force:
            named = ", ".join(w.name for w in waiting[:3]) + (", ..." if len(waiting) > 3 else "")
            raise NotNow(f"the next step would cut off {len(waiting)} workloads: {named}")
        for w in waiting:
            log.warning("rotation: %s may be cut off by a step that was forced (%s)", w.name, w.why)
        self._step()

    def offer(self, signer: Signer) -> None:
        """What the plugged-in CA's files say now: a new signer is gone over to, other roots are taken up."""
        keyring = self._keyring
        if keyring.coming is not None and signer.id == keyring.coming.id:
            return
        if signer.id != keyring.active.id:
            self.begin(signer)
        elif signer.roots != keyring.active.roots:
            keyring.renew(signer)
            log.info("the roots of the plugged-in CA have changed: %d now", len(signer.roots))
            self._changed()

    # -- by itself

    def tick(self, now: float) -> None:
        """Take a step that cuts nobody off; begin in time before a root of our own ends."""
        if now < self._rest_until:
            return
        began = time.monotonic()
        self._keyring.forget(now)
        if self._keyring.phase == IDLE:
            if self._ends_soon(now):
                log.warning("the root's time is running out: a new one is made")
                self.begin()
        elif not self.waiting(now, 1):
            self._step()
        self._rest_until = now + COSTS * (time.monotonic() - began)

    def _ends_soon(self, now: float) -> bool:
        active = self._keyring.active
        if active.chain or "fastmesh root" not in active.cert.subject.rfc4514_string():
            return False  # plugged in: who made it renews it
        begin, end = active.cert.not_valid_before_utc.timestamp(), active.expires.timestamp()
        return end - now < AHEAD * (end - begin)

    def _step(self) -> None:
        if self._keyring.phase == DISTRIBUTE:
            self._keyring.switch()
            log.info("rotation: %s signs from now on; all certificates are renewed", self._keyring.active.id)
        else:
            self._keyring.finish()
            log.info("rotation: done; only the roots of %s are trusted", self._keyring.active.id)
        self._changed()

    def deny(self, identity: str, reason: str) -> None:
        """This identity gets no certificate and is refused by every proxy. StateError."""
        now = time.time()
        self._store.deny(identity, now, reason)
        self.denied[identity] = (now, reason)
        self._changed()

    def allow(self, identity: str) -> bool:
        """Take an identity off that list; False when it is not on it."""
        found = self._store.allow(identity)
        if found:
            del self.denied[identity]
            self._changed()
        return found

    def _changed(self) -> None:
        self.steps += 1
        self._publish()

    # -- who would be cut off

    def waiting(self, now: float, most: int = 0) -> list[Waiting]:
        """Workloads that the next step would cut off, `most` of them (0: all)."""
        found: list[Waiting] = []
        if self._keyring.phase == IDLE:
            return found
        distributing = self._keyring.phase == DISTRIBUTE
        rows = (
            [row for row in self._store.proxies() if row.cert_expires > now]
            if distributing
            else self._store.proxies_signed_by_others(self._keyring.active.id, now)
        )
        for row in rows:
            session = self._registry.by_instance.get(row.instance)
            why = (
                self._lacks_roots(session)
                if distributing
                else "not connected"
                if session is None
                else "has yet to renew its certificate"
            )
            if why:
                found.append(Waiting(name_of(row), why, row.cert_expires))
                if len(found) == most:
                    return found
        if not distributing:
            for session in self._registry.by_instance.values():
                if not session.settled(now - SETTLE_SECONDS):
                    why = "its workers have yet to take its new certificate up"
                    found.append(Waiting(session.name, why, session.cert_expires))
                    if len(found) == most:
                        return found
        return found

    def _lacks_roots(self, session: Session | None) -> str:
        if session is None:
            return "not connected"
        served = session.applied.get(wire.TRUST, 0) >= self._version()
        return "" if served else "has yet to take the new root up"

    # -- what it says of itself

    def status(self, now: float) -> dict[str, Any]:
        """For `fastmesh ca status`."""
        keyring = self._keyring
        waiting = self.waiting(now)
        return {
            "phase": keyring.phase,
            "since": keyring.since,
            "signer": described(keyring.active),
            "next": described(keyring.coming) if keyring.coming else None,
            "roots": [
                {
                    "id": key_id(r),
                    "subject": r.subject.rfc4514_string(),
                    "expires": r.not_valid_after_utc.timestamp(),
                }
                for r in keyring.roots()
            ],
            "waiting": len(waiting),
            "waiting_for": [
                {"name": w.name, "why": w.why, "certificate_expires": w.expires} for w in waiting[:SHOWN]
            ],
            "warnings": self.warnings(now),
        }

    def warnings(self, now: float) -> list[str]:
        """What an operator should do something about."""
        found = []
        left = self._keyring.active.expires.timestamp() - now
        if left < 0:
            found.append(
                "the signing certificate has expired: no certificate is given out; `fastmesh ca rotate`"
            )
        elif left < WARN_SECONDS and self._keyring.phase == IDLE:
            found.append(f"the signing certificate expires in {left / 86400:.1f} days: `fastmesh ca rotate`")
        return found


def described(signer: Signer) -> dict[str, Any]:
    return {
        "id": signer.id,
        "subject": signer.cert.subject.rfc4514_string(),
        "root": signer.root.subject.rfc4514_string(),
        "expires": signer.expires.timestamp(),
        "intermediates": len(signer.chain),
    }


def name_of(row: ProxyRow) -> str:
    return f"{row.service}-{row.instance}.{row.namespace}"
