"""The HTTP API behind the CLI (Starlette): resources, tokens, services, proxies, waiting for a version.

Owns paths, bodies and statuses. All state is asked of mesh, store and server; handlers run in the event
loop's thread. Every path but /healthz and /metrics wants the bearer token of the state directory. An
answer that is not 2xx is {"error": text, ...}.
"""

from __future__ import annotations

import hmac
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fastmesh import __version__
from fastmesh.model.index import full_name
from fastmesh.model.load import load_text
from fastmesh.model.problems import ConfigError, Problem, errors_of, warnings_of
from fastmesh.model.schema import KINDS
from fastmesh.model.schema import Resource as Parsed
from fastmesh_control import tokens
from fastmesh_control.ca import Authority, Refused
from fastmesh_control.mesh import Applied, Mesh
from fastmesh_control.metrics import Metrics
from fastmesh_control.registry import Session
from fastmesh_control.rotation import NotNow, Rotation
from fastmesh_control.server import ControlServer
from fastmesh_control.signer import BadSigner, load
from fastmesh_control.store import Resource, StateError, Store

log = logging.getLogger("fastmesh.control")

MAX_BODY = 32 << 20
MAX_WAIT = 600.0
MAX_REASON = 200
SHORT = {
    "VirtualService": "vs",
    "DestinationRule": "dr",
    "ServiceEntry": "se",
    "WorkloadEntry": "we",
    "Gateway": "gw",
    "PeerAuthentication": "pa",
    "LocalRateLimit": "lrl",
    "AuthorizationPolicy": "ap",
}
Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """The handlers, and the application made of them."""

    def __init__(
        self,
        store: Store,
        mesh: Mesh,
        server: ControlServer,
        authority: Authority,
        rotation: Rotation,
        where: tokens.Where,
        metrics: Metrics,
        token: str,
    ) -> None:
        self._store = store
        self._mesh = mesh
        self._server = server
        self._authority = authority
        self._rotation = rotation
        self._where = where
        self._metrics = metrics
        self._token = token.encode()
        routes = [
            ("GET", "/healthz", self.health, True),
            ("GET", "/metrics", self.metrics, True),
            ("POST", "/v1/apply", self.apply, False),
            ("GET", "/v1/wait", self.wait, False),
            ("GET", "/v1/resources/{kind}", self.resources, False),
            ("GET", "/v1/resources/{kind}/{namespace}/{name}", self.resource, False),
            ("DELETE", "/v1/resources/{kind}/{namespace}/{name}", self.resource_delete, False),
            ("GET", "/v1/services", self.services, False),
            ("DELETE", "/v1/services/{namespace}/{name}", self.service_delete, False),
            ("GET", "/v1/tokens", self.tokens, False),
            ("POST", "/v1/tokens", self.token_create, False),
            ("DELETE", "/v1/tokens/{name}", self.token_delete, False),
            ("GET", "/v1/ca", self.ca, False),
            ("POST", "/v1/ca/{step}", self.ca_step, False),
            ("GET", "/v1/denied", self.denied, False),
            ("POST", "/v1/denied", self.deny, False),
            ("DELETE", "/v1/denied", self.allow, False),
            ("GET", "/v1/proxies", self.proxies, False),
            ("GET", "/v1/proxies/{name}/config", self.proxy_config, False),
            ("DELETE", "/v1/proxies/{name}", self.proxy_delete, False),
        ]
        self.app = Starlette(
            routes=[
                Route(path, self._guard(handler, open_), methods=[method])
                for method, path, handler, open_ in routes
            ],
            exception_handlers={HTTPException: self._http_error, 500: self._internal_error},
        )

    def _guard(self, handler: Handler, open_: bool) -> Handler:
        async def guarded(request: Request) -> Response:
            if not open_:
                scheme, _, given = request.headers.get("authorization", "").partition(" ")
                if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
                    return self._count(
                        _error(401, "a valid bearer token is needed", {"www-authenticate": "Bearer"})
                    )
            try:
                response = await handler(request)
            except ConfigError as error:
                problems = [p.to_dict() for p in error.problems]
                response = JSONResponse({"error": str(error), "problems": problems}, 422)
            except StateError as error:
                log.error("%s %s: %s", request.method, request.url.path, error)
                response = _error(507 if error.full else 500, f"nothing was changed: {error}")
            except NotNow as error:
                response = _error(409, str(error))
            except (tokens.TokenError, Refused, BadSigner) as error:
                response = _error(400, str(error))
            return self._count(response)

        return guarded

    def _count(self, response: Response) -> Response:
        self._metrics.api.labels(str(response.status_code)).inc()
        return response

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return self._count(_error(error.status_code, str(error.detail)))

    async def _internal_error(self, request: Request, error: Exception) -> Response:
        return self._count(_error(500, f"internal error: {type(error).__name__}"))

    # -- open to all

    async def health(self, request: Request) -> Response:
        return JSONResponse(
            {
                "status": "ok",
                "release": __version__,
                "epoch": self._mesh.epoch,
                "version": self._mesh.version,
                "proxies": len(self._server.registry.by_instance),
            }
        )

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    # -- resources

    async def apply(self, request: Request) -> Response:
        """All objects of a YAML or JSON body, or none. ?dry_run=true checks and compiles, and changes
        nothing."""
        namespace = request.query_params.get("namespace", "default")
        problems: list[Problem] = []
        resources: list[Parsed] = []
        for name, text in _files(request, await _body(request)):
            loaded = load_text(text, name, namespace)
            problems += loaded.problems
            resources += loaded.resources
        if errors_of(problems):
            raise ConfigError(problems)
        seen: dict[tuple[str, str, str], dict[str, Any]] = {}
        for found in resources:
            if found.key in seen:
                return _error(422, "the same object is given twice: {} {}/{}".format(*found.key))
            seen[found.key] = _document(found.raw, found.namespace)
        if not seen:
            return _error(400, "no objects were given")
        # What is wrong between objects is found in those that are stored, which have no lines.
        origins = {found.key: found.origin for found in resources}

        def located(found: list[Problem]) -> list[Problem]:
            return [p.located(origins.get((p.kind, p.namespace, p.name))) for p in found]

        try:
            done = self._mesh.apply(seen.items(), request.query_params.get("dry_run") == "true")
        except ConfigError as error:
            raise ConfigError(located(error.problems)) from None
        return JSONResponse(_applied(done, [*warnings_of(problems), *located(done.warnings)]))

    async def resources(self, request: Request) -> Response:
        kind = _kind(request.path_params["kind"])
        namespace, name = request.query_params.get("namespace"), request.query_params.get("name")
        items = [
            _shown(r)
            for r in self._mesh.state.resources.values()
            if r.kind == kind and namespace in (None, "", r.namespace) and name in (None, "", r.name)
        ]
        return JSONResponse({"items": items, "version": self._mesh.version})

    async def resource(self, request: Request) -> Response:
        found = self._mesh.state.resources.get(_key(request))
        if found is None:
            return _error(404, "{} {}/{} does not exist".format(*_key(request)))
        return JSONResponse(_shown(found))

    async def resource_delete(self, request: Request) -> Response:
        done = self._mesh.delete(_key(request))
        if done is None:
            return _error(404, "{} {}/{} does not exist".format(*_key(request)))
        return JSONResponse(_applied(done, done.warnings))

    async def wait(self, request: Request) -> Response:
        """Long poll: until every live proxy serves ?version (default: the newest), one refuses it, or
        ?timeout seconds."""
        version = int(_number(request, "version", self._mesh.version))
        timeout = min(_number(request, "timeout", 30.0), MAX_WAIT)
        found = await self._server.wait_applied(version, timeout)
        return JSONResponse(
            {
                "done": not found.late,
                "version": version,
                "late": found.late,
                "refused": found.refused,
                "proxies": len(self._server.registry.by_instance),
            }
        )

    # -- services and tokens

    async def services(self, request: Request) -> Response:
        namespace = request.query_params.get("namespace")
        items = [
            {
                "namespace": ns,
                "name": service,
                "host": full_name(service, ns),
                "ports": ports,
                "endpoints": [
                    asdict(e)
                    for e in self._mesh.state.endpoints.values()
                    if (e.namespace, e.service) == (ns, service)
                ],
            }
            for (ns, service), ports in sorted(self._mesh.state.services.items())
            if namespace in (None, "", ns)
        ]
        return JSONResponse({"items": items, "version": self._mesh.version})

    async def service_delete(self, request: Request) -> Response:
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        removed = self._mesh.service_delete(namespace, name)
        if removed is None:
            return _error(404, f"Service {namespace}/{name} does not exist")
        if not removed:
            return _error(409, f"Service {namespace}/{name} has endpoints: stop its sidecars first")
        return JSONResponse({"version": self._mesh.version})

    async def tokens(self, request: Request) -> Response:
        now = time.time()
        items = [
            {
                "id": t.id,
                "namespace": t.namespace,
                "service": t.service,
                "service_account": t.service_account,
                "created": t.created,
                "expires": t.expires,
                "expired": t.expires <= now,
                "used": t.used,
            }
            for t in self._store.tokens()
        ]
        return JSONResponse({"items": items})

    async def token_create(self, request: Request) -> Response:
        """{"service", "namespace"?, "service_account"? (default: the service's name), "ttl"? seconds} -> a
        join bundle."""
        try:
            asked = json.loads(await _body(request))
        except ValueError:
            return _error(400, "the body is not JSON")
        known = {"service": str, "namespace": str, "service_account": str, "ttl": (int, float)}
        if not isinstance(asked, dict) or "service" not in asked:
            return _error(400, "the body must be an object with a service")
        for name, value in asked.items():
            if name not in known or not isinstance(value, known[name]) or isinstance(value, bool):  # type: ignore[arg-type]
                return _error(400, f"{name}: unknown field or wrong type")
        service = asked["service"]
        bundle = tokens.mint(
            self._store,
            self._where,
            service,
            asked.get("namespace", "default"),
            asked.get("service_account") or service,
            float(asked.get("ttl", tokens.TTL_SECONDS)),
        )
        return JSONResponse(bundle, 201)

    async def token_delete(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not self._store.token_delete(name):
            return _error(404, f"Token {name} does not exist")
        return JSONResponse({})

    # -- certificates

    async def ca(self, request: Request) -> Response:
        """Which certificate signs, which roots are trusted, and what a rotation waits for."""
        return JSONResponse(self._rotation.status(time.time()))

    async def ca_step(self, request: Request) -> Response:
        """rotate (to a root of our own, or to {"key", "certificate", "root"}, PEM), proceed ({"force"}),
        cancel."""
        step, said = request.path_params["step"], _object(await _body(request))
        if step == "rotate":
            parts = [said.pop(name, "") for name in ("key", "certificate", "root")]
            if said or not all(isinstance(part, str) for part in parts):
                raise HTTPException(400, "key, certificate and root are wanted, in PEM, or nothing")
            given = load(*(part.encode() for part in parts), now=datetime.now(UTC)) if any(parts) else None
            self._rotation.begin(given)
        elif step == "proceed":
            self._rotation.proceed(said.get("force") is True)
        elif step == "cancel":
            self._rotation.cancel()
        else:
            raise HTTPException(404, f"no such step: {step:.80}")
        return JSONResponse({**self._rotation.status(time.time()), "version": self._mesh.version})

    async def denied(self, request: Request) -> Response:
        """Identities that no proxy lets in and that get no certificate."""
        items = [
            {"identity": identity, "since": since, "reason": reason}
            for identity, (since, reason) in sorted(self._rotation.denied.items())
        ]
        return JSONResponse({"items": items})

    async def deny(self, request: Request) -> Response:
        said = _object(await _body(request))
        identity, reason = said.get("identity"), said.get("reason", "")
        if not isinstance(identity, str) or not isinstance(reason, str) or len(reason) > MAX_REASON:
            raise HTTPException(400, f"identity and a reason of up to {MAX_REASON} characters are wanted")
        self._rotation.deny(self._authority.check_identity(identity), reason)
        for session in list(self._server.registry.by_instance.values()):
            if session.identity == identity:
                self._server.remove(session)
        return JSONResponse({"identity": identity, "version": self._mesh.version})

    async def allow(self, request: Request) -> Response:
        identity = request.query_params.get("identity", "")
        if not self._rotation.allow(identity):
            return _error(404, f"{identity:.200} is not denied")
        return JSONResponse({"identity": identity, "version": self._mesh.version})

    # -- proxies

    async def proxies(self, request: Request) -> Response:
        namespace = request.query_params.get("namespace")
        items = [
            self._proxy(s)
            for s in sorted(self._server.registry.by_instance.values(), key=lambda s: s.name)
            if namespace in (None, "", s.namespace)
        ]
        return JSONResponse({"items": items, "version": self._mesh.version})

    def _proxy(self, s: Session) -> dict[str, Any]:
        late = self._mesh.late(s.patterns, s.applied, self._mesh.version)
        return {
            "name": s.name,
            "instance": s.instance,
            "namespace": s.namespace,
            "service": s.service,
            "identity": s.identity,
            "address": s.info["address"],
            "port": s.info["port"],
            "app_port": s.info["app_port"],
            "labels": s.info.get("labels", {}),
            "release": s.info.get("release", ""),
            "since": s.since,
            "ready": s.ready,
            "cert_expires": s.cert_expires,
            "topics": len(s.applied),
            "late": late,
            "version": max(s.applied.values(), default=0) if late else self._mesh.version,
            "applied": s.applied,
            "refused": {t: {"version": v, "reason": reason} for t, (v, reason) in s.refused.items()},
            "status": s.status,
        }

    def _find(self, request: Request) -> Session:
        name = request.path_params["name"]
        found = self._server.registry.find(name)
        if not found:
            raise HTTPException(404, f"Proxy {name} is not connected")
        if len(found) > 1:
            raise HTTPException(409, f"Proxy {name} is ambiguous: {', '.join(s.name for s in found)}")
        return found[0]

    async def proxy_config(self, request: Request) -> Response:
        """What the sidecar says that it serves, asked of it now."""
        session = self._find(request)
        report = await self._server.fetch(session, request.query_params.get("what", "config")[:64])
        if report is None:
            return _error(504, f"{session.name} did not answer")
        if "error" in report:
            return _error(502, f"{session.name} sent no valid report: {report['error']}")
        data = report["data"]
        if isinstance(data, dict) and "error" in data:
            return _error(502, f"{session.name}: {data['error']}")
        if isinstance(data, dict) and "json" in str(data.get("type")) and isinstance(data.get("body"), str):
            # A view of the sidecar's admin endpoint, as it answered.
            return Response(data["body"], int(data.get("status", 200)), media_type="application/json")
        return Response(json.dumps(data, default=_plain), media_type="application/json")

    async def proxy_delete(self, request: Request) -> Response:
        """Forget a sidecar: it has to join anew, with a valid token."""
        session = self._find(request)
        self._store.proxy_delete(session.instance)
        self._server.remove(session)
        return JSONResponse({"name": session.name})


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers)


async def _body(request: Request) -> bytes:
    """The body, or 413."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY >> 20} MiB")
        parts.append(part)
    return b"".join(parts)


def _object(body: bytes) -> dict[str, Any]:
    """A JSON object; nothing is an empty one."""
    try:
        said = json.loads(body) if body else {}
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise HTTPException(400, "the body is not a JSON object")
    return said


def _files(request: Request, body: bytes) -> list[tuple[str, str | bytes]]:
    """(name, text) of a JSON body {"files": [{"name", "text"}]}, else the body itself."""
    if request.headers.get("content-type", "").partition(";")[0] == "application/json":
        try:
            decoded = json.loads(body)
        except ValueError:
            raise HTTPException(400, "the body is not JSON") from None
        if isinstance(decoded, dict) and "files" in decoded:
            files = decoded["files"]
            if not isinstance(files, list) or not all(
                isinstance(f, dict) and isinstance(f.get("name"), str) and isinstance(f.get("text"), str)
                for f in files
            ):
                raise HTTPException(400, "files must be a list of objects with name and text")
            return [(f["name"], f["text"]) for f in files]
    return [(request.query_params.get("name", "<body>"), body)]


def _kind(given: str) -> str:
    """A kind in any case: singular, plural, or short as kubectl has it."""
    wanted = given.lower()
    for kind in KINDS:
        low = kind.lower()
        if wanted in (low, low + "s", low.removesuffix("y") + "ies", SHORT[kind]):
            return kind
    raise HTTPException(404, f"unknown kind {given!r:.80}; kinds: {', '.join(KINDS)}")


def _key(request: Request) -> tuple[str, str, str]:
    return (_kind(request.path_params["kind"]), request.path_params["namespace"], request.path_params["name"])


def _number(request: Request, name: str, default: float) -> float:
    try:
        value = float(request.query_params.get(name, default))
    except ValueError:
        value = math.nan
    if not 0 <= value < 1 << 62:
        raise HTTPException(400, f"{name} must be a number from 0")
    return value


def _document(raw: dict[str, Any], namespace: str) -> dict[str, Any]:
    """The object as it was given, its namespace filled in, without what only a server says of it."""
    metadata = {k: v for k, v in raw["metadata"].items() if k in ("name", "labels", "annotations") and v}
    document = {k: v for k, v in raw.items() if k in ("apiVersion", "kind", "spec")}
    return {**document, "metadata": {**metadata, "namespace": namespace}}


def _shown(r: Resource) -> dict[str, Any]:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(r.created))
    metadata = {**r.document["metadata"], "creationTimestamp": created, "resourceVersion": str(r.version)}
    return {
        "apiVersion": r.document["apiVersion"],
        "kind": r.kind,
        "metadata": metadata,
        "spec": r.document.get("spec") or {},
    }


def _applied(done: Applied, warnings: list[Problem]) -> dict[str, Any]:
    return {
        "version": done.version,
        "objects": [
            {"kind": kind, "namespace": namespace, "name": name, "action": action}
            for (kind, namespace, name), action in done.actions
        ],
        "topics": done.topics,
        "warnings": [str(p) for p in warnings],
    }


def _plain(value: Any) -> Any:
    """Bytes in a sidecar's report (certificates) as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
