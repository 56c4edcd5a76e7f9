"""The control plane's state on disk: one SQLite file (WAL) under the state directory.

Owns the schema and every statement. It must not know resources' meaning, sockets or certificates' content.
All calls come from the event loop's thread and are short. A write that fails raises StateError and changes
nothing; what is in memory stays as it was.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE resources (
  kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  version INTEGER NOT NULL, created REAL NOT NULL, updated REAL NOT NULL, document TEXT NOT NULL,
  PRIMARY KEY (kind, namespace, name)) WITHOUT ROWID;
CREATE TABLE topics (topic TEXT PRIMARY KEY, version INTEGER NOT NULL, payload BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE tokens (
  id TEXT PRIMARY KEY, secret_hash TEXT NOT NULL, namespace TEXT NOT NULL, service TEXT NOT NULL,
  service_account TEXT NOT NULL, created REAL NOT NULL, expires REAL NOT NULL,
  used INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE proxies (
  instance TEXT PRIMARY KEY, key TEXT NOT NULL,
  namespace TEXT NOT NULL, service TEXT NOT NULL, service_account TEXT NOT NULL,
  cert_serial TEXT NOT NULL, cert_expires REAL NOT NULL, joined REAL NOT NULL,
  cert_issuer TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE TABLE denied (identity TEXT PRIMARY KEY, since REAL NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE certs (
  serial TEXT PRIMARY KEY, instance TEXT NOT NULL, expires REAL NOT NULL, revoked INTEGER NOT NULL DEFAULT 0)
  WITHOUT ROWID;
CREATE TABLE endpoints (
  instance TEXT PRIMARY KEY,
  namespace TEXT NOT NULL, service TEXT NOT NULL, identity TEXT NOT NULL,
  address TEXT NOT NULL, port INTEGER NOT NULL, app_port INTEGER NOT NULL, labels TEXT NOT NULL)
  WITHOUT ROWID;
CREATE TABLE services (
  namespace TEXT NOT NULL, service TEXT NOT NULL, ports TEXT NOT NULL,
  PRIMARY KEY (namespace, service)) WITHOUT ROWID;
"""
# What a state of an earlier release lacks, by the schema that it has.
_UPGRADES = {
    1: """
ALTER TABLE proxies ADD COLUMN cert_issuer TEXT NOT NULL DEFAULT '';
CREATE TABLE denied (identity TEXT PRIMARY KEY, since REAL NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
""",
}


class StateError(Exception):
    """The state could not be read or written. `full` when for want of space."""

    def __init__(self, message: str, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


@dataclass(frozen=True)
class Resource:
    kind: str
    namespace: str
    name: str
    version: int
    created: float
    updated: float
    document: dict[str, Any]

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.kind, self.namespace, self.name)


@dataclass(frozen=True)
class Token:
    id: str
    secret_hash: str
    namespace: str
    service: str
    service_account: str
    created: float
    expires: float
    used: int


@dataclass(frozen=True)
class ProxyRow:
    """A sidecar that has joined: its CURVE key and what it may call itself."""

    instance: str
    key: str
    namespace: str
    service: str
    service_account: str
    cert_serial: str
    cert_expires: float
    joined: float
    cert_issuer: str = ""
    """signer.key_id of who signed it; empty where an earlier release did not write it down."""


@dataclass(frozen=True)
class EndpointRow:
    """Where a workload is reached, as long as its lease lives."""

    instance: str
    namespace: str
    service: str
    identity: str
    address: str
    port: int
    app_port: int
    labels: dict[str, str]


def check_directory(path: Path) -> None:
    """Make the state directory (0700) and see that it can be written; StateError says what is wrong."""
    probe = path / f".probe-{os.getpid()}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StateError(
            f"state directory {path} cannot be written: {error.strerror or error}", full
        ) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


class Store:
    """The database. `epoch` names this lineage of state: it changes when the file was lost."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.close(fd)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            # Nobody else should have it open; whoever does may hold up the event loop for so long only.
            self._db.execute("PRAGMA busy_timeout=500")
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise StateError(f"state {path} cannot be opened: {error}", _is_full(error)) from error

    def _prepare(self) -> None:
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        while found in _UPGRADES:
            with self._transaction():
                for statement in _UPGRADES[found].split(";"):
                    self._db.execute(statement)
                found += 1
                self._db.execute(f"PRAGMA user_version={found}")
        if found == SCHEMA_VERSION:
            self.epoch = str(self._db.execute("SELECT value FROM meta WHERE key='epoch'").fetchone()[0])
            self.version = int(self._db.execute("SELECT value FROM meta WHERE key='version'").fetchone()[0])
            return
        if found:
            raise StateError(f"state {self.path} has schema {found}; this release reads {SCHEMA_VERSION}")
        self.epoch, self.version = secrets.token_hex(8), 0
        with self._transaction():
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute("INSERT INTO meta VALUES ('epoch', ?), ('version', '0')", (self.epoch,))
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; nested uses join the outer one."""
        if self._db.in_transaction:
            yield self._db
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
            self._db.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise StateError(f"state {self.path} cannot be written: {error}", _is_full(error)) from error
            raise

    def commit(
        self,
        version: int,
        topics: dict[str, tuple[int, bytes] | None],
        *,
        resources: list[Resource] | None = None,
        deleted: list[tuple[str, str, str]] | None = None,
        endpoints: dict[str, EndpointRow | None] | None = None,
        services: dict[tuple[str, str], list[int] | None] | None = None,
    ) -> None:
        """Write one change of desired state: what was changed and the topics that it made (None: gone), at
        once."""
        with self._transaction() as db:
            for r in resources or ():
                db.execute(
                    "INSERT OR REPLACE INTO resources VALUES (?,?,?,?,?,?,?)",
                    (r.kind, r.namespace, r.name, r.version, r.created, r.updated, json.dumps(r.document)),
                )
            for key in deleted or ():
                db.execute("DELETE FROM resources WHERE kind=? AND namespace=? AND name=?", key)
            for instance, e in (endpoints or {}).items():
                if e is None:
                    db.execute("DELETE FROM endpoints WHERE instance=?", (instance,))
                else:
                    db.execute(
                        "INSERT OR REPLACE INTO endpoints VALUES (?,?,?,?,?,?,?,?)",
                        (
                            e.instance,
                            e.namespace,
                            e.service,
                            e.identity,
                            e.address,
                            e.port,
                            e.app_port,
                            json.dumps(e.labels),
                        ),
                    )
            for (namespace, service), ports in (services or {}).items():
                if ports is None:
                    db.execute("DELETE FROM services WHERE namespace=? AND service=?", (namespace, service))
                else:
                    db.execute(
                        "INSERT OR REPLACE INTO services VALUES (?,?,?)",
                        (namespace, service, json.dumps(ports)),
                    )
            for topic, held in topics.items():
                if held is None:
                    db.execute("DELETE FROM topics WHERE topic=?", (topic,))
                else:
                    db.execute("INSERT OR REPLACE INTO topics VALUES (?,?,?)", (topic, *held))
            db.execute("UPDATE meta SET value=? WHERE key='version'", (str(version),))
        self.version = version

    def resources(self) -> list[Resource]:
        rows = self._db.execute("SELECT * FROM resources ORDER BY kind, namespace, name")
        return [_made(Resource, row) for row in rows]

    def topics(self) -> dict[str, tuple[int, bytes]]:
        return {
            topic: (version, payload) for topic, version, payload in self._db.execute("SELECT * FROM topics")
        }

    def endpoints(self) -> list[EndpointRow]:
        rows = self._db.execute("SELECT * FROM endpoints ORDER BY instance")
        return [_made(EndpointRow, row) for row in rows]

    def services(self) -> dict[tuple[str, str], list[int]]:
        return {(n, s): json.loads(ports) for n, s, ports in self._db.execute("SELECT * FROM services")}

    def token_add(self, token: Token) -> None:
        with self._transaction() as db:
            row = (
                token.id,
                token.secret_hash,
                token.namespace,
                token.service,
                token.service_account,
                token.created,
                token.expires,
                token.used,
            )
            db.execute("INSERT INTO tokens VALUES (?,?,?,?,?,?,?,?)", row)

    def token(self, ident: str) -> Token | None:
        row = self._db.execute("SELECT * FROM tokens WHERE id=?", (ident,)).fetchone()
        return Token(*row) if row else None

    def tokens(self) -> list[Token]:
        return [Token(*row) for row in self._db.execute("SELECT * FROM tokens ORDER BY created")]

    def token_delete(self, ident: str) -> bool:
        with self._transaction() as db:
            return db.execute("DELETE FROM tokens WHERE id=?", (ident,)).rowcount > 0

    def tokens_forget(self, before: float) -> None:
        """Drop tokens that expired before a time."""
        with self._transaction() as db:
            db.execute("DELETE FROM tokens WHERE expires < ?", (before,))

    def proxy_put(self, row: ProxyRow, token: str | None = None) -> None:
        """Record a joined or renewed sidecar; `token` is the id of the token that it used."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO proxies VALUES (?,?,?,?,?,?,?,?,?)",
                (
                    row.instance,
                    row.key,
                    row.namespace,
                    row.service,
                    row.service_account,
                    row.cert_serial,
                    row.cert_expires,
                    row.joined,
                    row.cert_issuer,
                ),
            )
            cert = (row.cert_serial, row.instance, row.cert_expires)
            db.execute("INSERT OR IGNORE INTO certs (serial, instance, expires) VALUES (?,?,?)", cert)
            if token:
                db.execute("UPDATE tokens SET used = used + 1 WHERE id=?", (token,))

    def proxy(self, instance: str) -> ProxyRow | None:
        row = self._db.execute("SELECT * FROM proxies WHERE instance=?", (instance,)).fetchone()
        return ProxyRow(*row) if row else None

    def proxies(self) -> list[ProxyRow]:
        return [ProxyRow(*row) for row in self._db.execute("SELECT * FROM proxies ORDER BY instance")]

    def proxy_delete(self, instance: str) -> None:
        """Forget a sidecar; its certificates prove nothing to us any more."""
        with self._transaction() as db:
            db.execute("DELETE FROM proxies WHERE instance=?", (instance,))
            db.execute("UPDATE certs SET revoked=1 WHERE instance=?", (instance,))

    def proxies_signed_by_others(self, issuer: str, now: float) -> list[ProxyRow]:
        """Sidecars with a certificate that is still valid and that another signer signed."""
        rows = self._db.execute(
            "SELECT * FROM proxies WHERE cert_expires > ? AND cert_issuer != ? ORDER BY instance",
            (now, issuer),
        )
        return [ProxyRow(*row) for row in rows]

    def denied(self) -> dict[str, tuple[float, str]]:
        """Identities that are denied: since when, and why."""
        return {i: (since, reason) for i, since, reason in self._db.execute("SELECT * FROM denied")}

    def deny(self, identity: str, since: float, reason: str) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO denied VALUES (?,?,?)", (identity, since, reason))

    def allow(self, identity: str) -> bool:
        with self._transaction() as db:
            return db.execute("DELETE FROM denied WHERE identity=?", (identity,)).rowcount > 0

    def cert_revoked(self, serial: str) -> bool:
        row = self._db.execute("SELECT revoked FROM certs WHERE serial=?", (serial,)).fetchone()
        return row is not None and bool(row[0])

    def proxies_forget(self, before: float) -> None:
        """Drop sidecars whose certificates expired before a time: they have to join anew."""
        with self._transaction() as db:
            db.execute("DELETE FROM proxies WHERE cert_expires < ?", (before,))
            db.execute("DELETE FROM certs WHERE expires < ?", (before,))


def _made(kind: Callable[..., T], row: tuple[Any, ...]) -> T:
    """A record whose last column is JSON."""
    return kind(*row[:-1], json.loads(row[-1]))


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
