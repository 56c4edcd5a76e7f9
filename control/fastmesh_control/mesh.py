"""Desired state in memory: resources, services, endpoints, and the versioned topics that follow from them.

Owns versions: every change that alters a topic's bytes gives that topic the change's number; a change that
alters nothing publishes nothing. A change is compiled first, written second, taken up third: what cannot
be compiled or written leaves everything as it was. It must not know sockets or sessions; `on_update`
carries what has to be published.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastmesh.model import wire
from fastmesh.model.problems import ConfigError, Problem, errors_of
from fastmesh_control.store import EndpointRow, Resource, StateError, Store

log = logging.getLogger("fastmesh.control")

# Application ports of one service. Each is clusters and routes in every sidecar, and a sidecar names its own:
# one that names another with each hello (or has an application on ephemeral ports) must not fill the mesh.
MAX_PORTS = 64
REMEMBERED = 32  # versions of a topic that `apply --wait` can still ask about

Key = tuple[str, str, str]


@dataclass(frozen=True)
class State:
    """Everything that topics are compiled from. Never altered: a change makes another one."""

    resources: Mapping[Key, Resource]
    services: Mapping[tuple[str, str], list[int]]  # (namespace, service) -> application ports
    endpoints: Mapping[str, EndpointRow]


@dataclass(frozen=True)
class Update:
    topic: str
    version: int
    prev: int
    payload: bytes | None


@dataclass(frozen=True)
class Topic:
    version: int
    crc: int
    payload: bytes
    # Versions before this one, oldest first.
    earlier: tuple[int, ...] = ()


@dataclass
class Applied:
    """What an apply did."""

    version: int
    actions: list[tuple[Key, str]] = field(default_factory=list)
    topics: dict[str, int] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)


class Compiles(Protocol):
    """What makes topics of a state; see topics.Compiler."""

    def topics(self, state: State, only: set[tuple[str, str]] | None) -> dict[str, Any]: ...

    def problems(self, state: State) -> list[Problem]: ...


class Mesh:
    """The desired state. All methods run in the event loop's thread."""

    def __init__(self, store: Store, compiler: Compiles) -> None:
        self._store = store
        self._compiler = compiler
        self.epoch = store.epoch
        self.version = store.version
        self.state = State(
            {r.key: r for r in store.resources()},
            store.services(),
            {e.instance: e for e in store.endpoints()},
        )
        self.topics = {
            t: Topic(version, wire.checksum(payload), payload)
            for t, (version, payload) in store.topics().items()
        }
        self.on_update: Callable[[list[Update]], object] = lambda updates: None
        self.recent: deque[tuple[int, float, int]] = deque(
            maxlen=1000
        )  # (version, when, topics changed), for metrics
        self.write_failures = 0
        self._digests: dict[tuple[str, ...], int] = {}
        self._wanted: dict[tuple[tuple[str, ...], int], dict[str, int]] = {}
        # What this release compiles may differ from what the last one did: topics that differ get a new
        # version, others keep theirs.
        self._change(self.state, None, strict=False)

    # -- changes

    def apply(self, documents: Iterable[tuple[Key, dict[str, Any]]], dry_run: bool = False) -> Applied:
        """Create or replace resources, all or none. ConfigError, StateError: nothing has changed."""
        now = time.time()
        resources = dict(self.state.resources)
        written: list[Resource] = []
        done = Applied(self.version)
        for key, document in documents:
            old = resources.get(key)
            if old is not None and old.document == document:
                done.actions.append((key, "unchanged"))
                continue
            made = Resource(
                *key,
                version=self.version + 1,
                created=old.created if old else now,
                updated=now,
                document=document,
            )
            resources[key] = made
            written.append(made)
            done.actions.append((key, "configured" if old else "created"))
        state = State(resources, self.state.services, self.state.endpoints)
        done.warnings = self._check(state)
        updates = self._change(state, None, resources=written, dry_run=dry_run)
        done.version = self.version
        done.topics = {u.topic: u.version for u in updates}
        return done

    def _check(self, state: State) -> list[Problem]:
        """The warnings of a state; ConfigError if it has errors that the present one does not have."""
        problems = self._compiler.problems(state)
        before = {str(p) for p in errors_of(self._compiler.problems(self.state))}
        errors = [p for p in errors_of(problems) if str(p) not in before]
        if errors:
            raise ConfigError(errors)
        return [p for p in problems if str(p) not in before]

    def delete(self, key: Key) -> Applied | None:
        """Remove a resource; None when there is none."""
        if key not in self.state.resources:
            return None
        resources = {k: r for k, r in self.state.resources.items() if k != key}
        state = State(resources, self.state.services, self.state.endpoints)
        updates = self._change(state, None, deleted=[key])
        errors = errors_of(self._compiler.problems(state))
        return Applied(self.version, [(key, "deleted")], {u.topic: u.version for u in updates}, errors)

    def service_delete(self, namespace: str, service: str) -> bool | None:
        """Forget a service that has no endpoints: True; False when it has some, None when there is no such
        service."""
        key = (namespace, service)
        if key not in self.state.services:
            return None
        if any((e.namespace, e.service) == key for e in self.state.endpoints.values()):
            return False
        services = {k: ports for k, ports in self.state.services.items() if k != key}
        self._change(State(self.state.resources, services, self.state.endpoints), {key}, services={key: None})
        return True

    def service_known(self, namespace: str, service: str, app_port: int) -> bool:
        """A sidecar of a service has come: the service has a topic from now on, its namespace a policy.

        False when the service has too many ports already, all in use; those that none has are forgotten."""
        key = (namespace, service)
        ports = self.state.services.get(key, [])
        if app_port not in ports:
            if len(ports) >= MAX_PORTS:
                used = {e.app_port for e in self.state.endpoints.values() if (e.namespace, e.service) == key}
                ports = sorted(used)
            if len(ports) >= MAX_PORTS:
                return False
            more = {key: sorted([*ports, app_port])}
            state = State(self.state.resources, {**self.state.services, **more}, self.state.endpoints)
            self._change(state, {key}, services={**more}, strict=False)
        return True

    def refresh(self) -> None:
        """What topics are made of besides this state has changed (certificates)."""
        self._change(self.state, None, strict=False)

    def endpoint_up(self, row: EndpointRow) -> None:
        """A workload serves: list it. (Its service stays known when its last endpoint goes.)"""
        if self.state.endpoints.get(row.instance) == row:
            return
        key = (row.namespace, row.service)
        touched = {key}
        old = self.state.endpoints.get(row.instance)
        if old is not None:
            touched.add((old.namespace, old.service))
        state = State(self.state.resources, self.state.services, {**self.state.endpoints, row.instance: row})
        self._change(state, touched, endpoints={row.instance: row}, strict=False)

    def endpoints_down(self, instances: Iterable[str]) -> None:
        """Workloads have gone: take them off the lists."""
        gone = [self.state.endpoints[i] for i in instances if i in self.state.endpoints]
        if not gone:
            return
        names = {row.instance for row in gone}
        state = State(
            self.state.resources,
            self.state.services,
            {i: e for i, e in self.state.endpoints.items() if i not in names},
        )
        self._change(
            state,
            {(row.namespace, row.service) for row in gone},
            endpoints=dict.fromkeys(names),
            strict=False,
        )

    def _change(
        self,
        state: State,
        only: set[tuple[str, str]] | None,
        *,
        resources: list[Resource] | None = None,
        deleted: list[Key] | None = None,
        endpoints: dict[str, EndpointRow | None] | None = None,
        services: dict[tuple[str, str], list[int] | None] | None = None,
        strict: bool = True,
        dry_run: bool = False,
    ) -> list[Update]:
        """Compile, write, take up, publish. Not `strict`: a failed write is logged and the change is taken
        up all the same, since endpoints come from the workloads, which will tell again."""
        contents = self._compiler.topics(state, only)
        version = self.version + 1
        updates: list[Update] = []
        topics = dict(self.topics)
        gone = [] if only is not None else [topic for topic in topics if topic not in contents]
        for topic, content in [*contents.items(), *((topic, None) for topic in gone)]:
            held = topics.get(topic)
            payload = None if content is None else wire.pack_payload(content)
            if (held.payload if held else None) == payload:
                continue
            updates.append(Update(topic, version, held.version if held else 0, payload))
            if payload is None:
                del topics[topic]
            else:
                earlier = (*held.earlier[-REMEMBERED:], held.version) if held else ()
                topics[topic] = Topic(version, wire.checksum(payload), payload, earlier)
        if dry_run:
            return []
        if not updates:
            version = self.version
        if updates or resources or deleted or endpoints or services:
            written = {u.topic: None if u.payload is None else (u.version, u.payload) for u in updates}
            try:
                self._store.commit(
                    version,
                    written,
                    resources=resources,
                    deleted=deleted,
                    endpoints=endpoints,
                    services=services,
                )
            except StateError as error:
                self.write_failures += 1
                if strict:
                    raise
                log.error("%s; serving goes on from memory", error)
        self.state, self.topics, self.version = state, topics, version
        if updates:
            self._digests.clear()
            self._wanted.clear()
            self.recent.append((version, time.time(), len(updates)))
            self.on_update(updates)
        return updates

    # -- questions

    def digest(self, patterns: tuple[str, ...]) -> int:
        """The digest of the topics under some patterns, as a subscriber that is in step computes it."""
        known = self._digests.get(patterns)
        if known is None:
            known = wire.digest(
                (t, held.version, held.crc) for t, held in self.topics.items() if wire.matches(t, patterns)
            )
            if len(self._digests) > 10_000:  # as many pattern sets as proxies at most; never unbounded
                self._digests.clear()
            self._digests[patterns] = known
        return known

    def differing(
        self, patterns: tuple[str, ...], known: Mapping[str, list[int]], only: Iterable[str] | None
    ) -> tuple[list[str], list[str]]:
        """Which topics a subscriber lacks or holds otherwise, and which it holds that are no more."""
        asked = self.topics if only is None else [t for t in only if t in self.topics]
        changed = [
            t
            for t in asked
            if wire.matches(t, patterns) and known.get(t) != [self.topics[t].version, self.topics[t].crc]
        ]
        candidates = known if only is None else {*known, *only}
        removed = [t for t in candidates if t not in self.topics or not wire.matches(t, patterns)]
        return changed, removed

    def wanted(self, patterns: tuple[str, ...], version: int) -> dict[str, int]:
        """What a proxy with these patterns has to serve to stand where the mesh stood at a version."""
        known = self._wanted.get((patterns, version))
        if known is None:
            at = ((t, self.version_at(t, version)) for t in self.topics if wire.matches(t, patterns))
            known = {t: v for t, v in at if v}
            if len(self._wanted) > 1000:
                self._wanted.clear()
            self._wanted[patterns, version] = known
        return known

    def version_at(self, topic: str, version: int) -> int:
        """The version of a topic that was in force at a version of the mesh; 0 when it did not exist."""
        held = self.topics[topic]
        if held.version <= version:
            return held.version
        return max((v for v in held.earlier if v <= version), default=0)

    def late(self, patterns: Iterable[str], applied: Mapping[str, int], version: int) -> list[str]:
        """Which topics a proxy has yet to serve (or to drop) to stand where the mesh stood at a version."""
        wanted = self.wanted(tuple(patterns), version)
        late = sorted(t for t, v in wanted.items() - applied.items() if applied.get(t, 0) < v)
        return late + [
            t for t in applied.keys() - wanted.keys() if t not in self.topics and applied[t] <= version
        ]
