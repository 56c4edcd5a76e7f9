"""Who a sidecar is, and the certificates that say so: joins, hellos, renewals.

Owns what a join token, a CURVE key and a certificate prove about their holder, and who is denied. It must not
know sockets or sessions' leases; server.py speaks the protocol.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from fastmesh.model import wire
from fastmesh_control import tokens
from fastmesh_control.ca import Authority, Leaf, Refused, spiffe_id
from fastmesh_control.metrics import Metrics
from fastmesh_control.registry import Session
from fastmesh_control.rotation import Rotation
from fastmesh_control.store import ProxyRow, Store

log = logging.getLogger("fastmesh.control")

# A sidecar whose certificate ran out while we were away may still renew by its registered key.
EXPIRED_GRACE = 7 * 24 * 3600.0

Message = dict[str, Any]
Reply = tuple[str, dict[str, Any]]


class Denied(Exception):
    """A request answered with an error message."""

    def __init__(self, code: str, message: str, nonce: bytes | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.nonce = nonce


class Identities:
    """Checks who asks, and gives out certificates. Denied, StateError."""

    def __init__(self, store: Store, authority: Authority, rotation: Rotation, metrics: Metrics) -> None:
        self._store = store
        self._authority = authority
        self._rotation = rotation
        self._metrics = metrics

    def spiffe_id(self, row: ProxyRow) -> str:
        return spiffe_id(self._authority.trust_domain, row.namespace, row.service_account)

    def nonce(self, key: str) -> bytes:
        return self._authority.nonce(key)

    def join(self, key: str, message: Message) -> Reply:
        """The first certificate of whoever has a token."""
        try:
            token = tokens.check(self._store, message["token"])
        except tokens.TokenError as error:
            log.warning("a join was refused: %s", error)
            raise Denied(wire.E_TOKEN_EXPIRED if error.expired else wire.E_TOKEN_BAD, str(error)) from None
        known = self._store.proxy(message["instance"])
        owner = (token.namespace, token.service, token.service_account)
        if known is not None and (known.namespace, known.service, known.service_account) != owner:
            raise Denied(wire.E_IDENTITY, f"instance id {message['instance']} belongs to another workload")
        self._admit(token.namespace, token.service_account)
        try:
            leaf = self._authority.sign(message["csr"], token.namespace, token.service_account, token.service)
        except Refused as refused:
            raise Denied(wire.E_CSR, str(refused)) from None
        now = time.time()
        row = ProxyRow(message["instance"], key, *owner, leaf.serial, leaf.not_after, now, leaf.issuer)
        self._store.proxies_forget(now - EXPIRED_GRACE)
        self._store.proxy_put(row, token.id)
        return self._certificate(leaf, row, "join")

    def identify(self, key: str, message: Message) -> ProxyRow:
        """Whose hello this is: by a CURVE key that joined, else by proof of a certificate of ours."""
        instance = message["instance"]
        row = self._store.proxy(instance)
        if row is not None and row.key == key and row.cert_expires + EXPIRED_GRACE > time.time():
            self._admit(row.namespace, row.service_account)
            return row
        if not all(part in message for part in ("chain", "nonce", "signature")):
            text = "this key is not known: prove the identity"
            raise Denied(wire.E_PROOF, text, self._authority.nonce(key))
        try:
            who = self._authority.prove(message["chain"], message["nonce"], message["signature"], key)
            if self._store.cert_revoked(who.serial):
                raise Refused("this sidecar has been removed: it has to join anew")
        except Refused as refused:
            raise Denied(wire.E_IDENTITY, str(refused)) from None
        self._admit(who.namespace, who.service_account)
        proven = (who.namespace, who.service, who.service_account)
        if row is not None and (row.namespace, row.service, row.service_account) != proven:
            raise Denied(wire.E_IDENTITY, f"instance id {instance} belongs to another workload")
        row = ProxyRow(instance, key, *proven, who.serial, who.not_after, time.time(), who.issuer)
        self._store.proxy_put(row)
        return row

    def renew(self, session: Session, message: Message) -> Reply:
        """A new certificate for whoever proves the one before."""
        row = self._store.proxy(session.instance)
        if row is None:
            raise Denied(wire.E_IDENTITY, "this sidecar has been removed")
        self._admit(session.namespace, session.service_account)
        try:
            who = self._authority.prove(
                message["chain"],
                message["nonce"],
                message["signature"],
                session.key,
                message["csr"],
                EXPIRED_GRACE,
            )
            if (who.namespace, who.service_account) != (session.namespace, session.service_account):
                raise Refused("the certificate is another workload's")
            leaf = self._authority.sign(
                message["csr"], session.namespace, session.service_account, session.service
            )
        except Refused as refused:
            raise Denied(wire.E_IDENTITY, str(refused)) from None
        renewed = ProxyRow(
            row.instance,
            row.key,
            row.namespace,
            row.service,
            row.service_account,
            leaf.serial,
            leaf.not_after,
            row.joined,
            leaf.issuer,
        )
        self._store.proxy_put(renewed)
        session.cert_expires = leaf.not_after
        session.renewing(time.time())
        return self._certificate(leaf, renewed, "renew")

    def _admit(self, namespace: str, service_account: str) -> None:
        identity = spiffe_id(self._authority.trust_domain, namespace, service_account)
        if identity in self._rotation.denied:
            raise Denied(wire.E_IDENTITY, f"{identity} is denied: {self._rotation.denied[identity][1]}")

    def _certificate(self, leaf: Leaf, row: ProxyRow, reason: str) -> Reply:
        identity = self.spiffe_id(row)
        self._metrics.certificates.labels(reason).inc()
        log.info(
            "%s: certificate %s for %s-%s until %d",
            reason,
            identity,
            row.service,
            row.instance,
            leaf.not_after,
        )
        return "certificate", {
            "chain": leaf.chain,
            "roots": self._authority.roots_pem,
            "spiffe_id": identity,
            "issued": leaf.issued,
            "not_before": leaf.not_before,
            "not_after": leaf.not_after,
        }
