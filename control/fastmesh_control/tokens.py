"""Join tokens and the bundles that carry them.

Owns how a token is minted, kept (hashed) and checked. A token is `fmj_<id>.<secret>`; it is bound to one
namespace, service and service account, may be used by any number of replicas until it expires, and says
nothing without the control plane's public key, which the bundle pins.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any

from fastmesh_control.ca import check_name, spiffe_id
from fastmesh_control.store import Store, Token

PREFIX = "fmj_"
BUNDLE_VERSION = 1
TTL_SECONDS = 24 * 3600.0
TTL_LIMIT = 366 * 24 * 3600.0
KEEP_EXPIRED = 7 * 24 * 3600.0  # so that "expired" can be told from "never was"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class TokenError(Exception):
    """A token that lets nobody in."""

    def __init__(self, message: str, expired: bool = False) -> None:
        super().__init__(message)
        self.expired = expired


@dataclass(frozen=True)
class Where:
    """How sidecars reach this control plane."""

    control: str  # tcp://host:port
    updates: str
    server_key: str
    trust_domain: str


def check_label(value: str, what: str) -> str:
    """A DNS label; TokenError names what was wrong."""
    if not _LABEL.fullmatch(value):
        raise TokenError(f"{what} {value!r:.80} must be 1 to 63 lower-case letters, digits or '-'")
    return value


def mint(
    store: Store, where: Where, service: str, namespace: str, service_account: str, ttl: float
) -> dict[str, Any]:
    """A new token in a join bundle. The secret is in the bundle alone."""
    check_label(service, "service")
    check_label(namespace, "namespace")
    check_name(service_account, "service account")
    if not 1 <= ttl <= TTL_LIMIT:
        raise TokenError(f"a token lives 1 s to {TTL_LIMIT / 86400:g} days, not {ttl:g} s")
    ident, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    now = time.time()
    store.tokens_forget(now - KEEP_EXPIRED)
    store.token_add(Token(ident, _hash(secret), namespace, service, service_account, now, now + ttl, 0))
    return {
        "version": BUNDLE_VERSION,
        "control": where.control,
        "updates": where.updates,
        "server_key": where.server_key,
        "trust_domain": where.trust_domain,
        "namespace": namespace,
        "service": service,
        "service_account": service_account,
        "spiffe_id": spiffe_id(where.trust_domain, namespace, service_account),
        "token": f"{PREFIX}{ident}.{secret}",
        "expires_at": int(now + ttl),
    }


def check(store: Store, token: str, now: float | None = None) -> Token:
    """The token's record; TokenError when it is unknown, wrong or expired."""
    now = time.time() if now is None else now
    ident, _, secret = token.removeprefix(PREFIX).partition(".")
    held = store.token(ident) if token.startswith(PREFIX) else None
    if held is None or not hmac.compare_digest(held.secret_hash, _hash(secret)):
        raise TokenError("the join token is unknown or wrong: make a new one with `fastmesh token create`")
    if held.expires <= now:
        raise TokenError(
            "the join token has expired: make a new one with `fastmesh token create`", expired=True
        )
    return held


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
