"""VirtualService http rules -> IR routes (compile). The same for gateways and for sidecars.

Knows neither listeners nor clusters: the caller says which gateway and port it compiles for, and turns a
destination into a cluster's name. Input is the normalised spec of a checked resource.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from fastmesh.compile.ratelimit import limits_of, rule_owners
from fastmesh.model.schema import Resource
from fastmesh.model.schema_fault import GRPC_STATUSES

if TYPE_CHECKING:
    from fastmesh.model import ir

MESH: Final = "mesh"
DEFAULT_ATTEMPTS: Final = 2
DEFAULT_RETRY_ON: Final = ("connect-failure", "refused-stream", "unavailable", "cancelled")
"""Istio's default; the latter two are gRPC statuses."""
SINGLE_WEIGHT: Final = 1
"""The weight of a destination that is alone: it gets every request whatever its weight says."""

Resolve = Callable[[dict[str, Any], str, int], str]
"""(destination, namespace of the rule, port of the listener) -> cluster name."""


def gateway_refs(names: list[str], namespace: str) -> list[str]:
    """References as "namespace/name", "mesh" kept."""
    return [n if n == MESH or "/" in n else f"{namespace}/{n}" for n in names]


def bound_gateways(vs: Resource) -> list[str]:
    """What a VirtualService applies to: its gateways, else the sidecars."""
    return gateway_refs(vs.spec.get("gateways") or [MESH], vs.namespace)


def applies_anywhere(vs: Resource) -> set[str]:
    """All gateways that any of its rules can apply to: a match may name others than the top level."""
    refs = set(bound_gateways(vs))
    for http in vs.spec["http"]:
        for m in http.get("match", ()):
            refs.update(gateway_refs(m.get("gateways", []), vs.namespace))
    for kind in ("tls", "tcp"):
        for rule in vs.spec.get(kind, ()):
            for m in rule.get("match", ()):
                refs.update(gateway_refs(m.get("gateways", []), vs.namespace))
    return refs


def source_of(vs: Resource) -> str:
    return f"VirtualService {vs.namespace}/{vs.name}"


def compile_routes(
    vs: Resource, gateway: str, port: int, resolve: Resolve, places: list[str] | None = None
) -> list[ir.Route]:
    """The routes of a VirtualService for one gateway ("namespace/name" or "mesh") and port, in order.
    `places` gets where each stands in it (VirtualHost.places of model/ir.py)."""
    bound = bound_gateways(vs)
    out: list[ir.Route] = []
    owners = rule_owners(vs)
    for i, (http, owner) in enumerate(zip(vs.spec["http"], owners, strict=True)):
        matches = http.get("match") or [{}]
        taken = [
            (k, m)
            for k, m in enumerate(matches)
            if gateway in (gateway_refs(m["gateways"], vs.namespace) if m.get("gateways") else bound)
            and m.get("port", port) == port
        ]
        if not taken:
            continue
        action = _action(http, vs.namespace, port, resolve)
        limits = limits_of(http.get("localRateLimit", {}), owner)
        if limits:
            action["limits"] = limits
        for k, m in taken:
            out.append({**_match(m, http), **action})  # type: ignore[typeddict-item]
            source = _source(m)
            if source:
                out[-1]["source"] = source
            if places is not None:
                places.append(f"{i}.{k}" if http.get("match") else str(i))
            name = ".".join(filter(None, (http.get("name"), m.get("name"))))
            if name:
                out[-1]["name"] = name
    return out


def takes_all(route: ir.Route) -> bool:
    """Whether no request passes this route by."""
    path = route.get("path")
    return (
        not route.get("conds")
        and "source" not in route
        and (path is None or (path["op"] == "prefix" and path["value"] == "/"))
    )


def catch_all_last(routes: list[ir.Route]) -> list[ir.Route]:
    """Rules of several VirtualServices merged: what takes everything comes last, else the order is kept (as
    Istio does)."""
    return [r for r in routes if not takes_all(r)] + [r for r in routes if takes_all(r)]


def default_route(cluster: str) -> ir.Route:
    """For a service without a VirtualService."""
    return {
        "name": "default",
        "dests": [{"cluster": cluster, "weight": SINGLE_WEIGHT}],
        "retries": default_retries(),
    }


def default_retries() -> ir.Retries:
    return {"attempts": DEFAULT_ATTEMPTS, "retry_on": list(DEFAULT_RETRY_ON)}


# -- matches -------------------------------------------------------------------------------------------------


def _op(m: dict[str, Any]) -> tuple[str, str]:
    for op in ("exact", "prefix", "regex"):
        if op in m:
            return op, m[op]
    return "present", ""


def _match(m: dict[str, Any], http: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if "uri" in m:
        op, value = _op(m["uri"])
        out["path"] = {"op": op, "value": value}
        if m.get("ignoreUriCase") and op != "regex":
            out["path"]["ignore_case"] = True
    elif "uri" in http.get("rewrite", {}):
        # as in Istio, a rule without a path match has the prefix / and the rewrite replaces that
        out["path"] = {"op": "prefix", "value": "/"}
    conds: list[dict[str, Any]] = []
    for field in ("method", "scheme", "authority"):
        if field in m:
            op, value = _op(m[field])
            conds.append({"on": field, "op": op, "value": value})
    for name, v in m.get("headers", {}).items():
        conds.append(_header(name, v))
    for name, v in m.get("withoutHeaders", {}).items():
        conds.append({**_header(name, v), "negate": True})
    for name, v in m.get("queryParams", {}).items():
        conds.append(_valued("query", name, v))
    if conds:
        out["conds"] = conds
    return out


def _source(m: dict[str, Any]) -> ir.Source:
    out: ir.Source = {}
    if m.get("sourceLabels"):
        out["labels"] = m["sourceLabels"]
    if "sourceNamespace" in m:
        out["namespace"] = m["sourceNamespace"]
    return out


def _header(name: str, v: dict[str, Any]) -> dict[str, Any]:
    if name.startswith(":"):
        op, value = _op(v)
        if op == "present":
            op, value = "prefix", ""  # every request has these
        return {"on": name[1:], "op": op, "value": value}
    return _valued("header", name.lower(), v)


def _valued(on: str, name: str, v: dict[str, Any]) -> dict[str, Any]:
    op, value = _op(v)
    if (op == "regex" and value in ("*", ".*")) or (op == "prefix" and not value):
        op = "present"  # Istio takes these for "has it"
    return (
        {"on": on, "op": op, "name": name}
        if op == "present"
        else {"on": on, "op": op, "name": name, "value": value}
    )


# -- actions -------------------------------------------------------------------------------------------------


def _action(http: dict[str, Any], namespace: str, port: int, resolve: Resolve) -> dict[str, Any]:
    out: dict[str, Any] = {}
    headers = http.get("headers", {})
    request, host = _split_host(headers.get("request", {}))
    if "redirect" in http:
        out["redirect"] = _redirect(http["redirect"], port)
    elif "directResponse" in http:
        out["direct"] = _direct(http["directResponse"])
    else:
        out["dests"] = _dests(http["route"], namespace, port, resolve)
        rewrite = _rewrite(http.get("rewrite", {}), host)
        if rewrite:
            out["rewrite"] = rewrite
        if http.get("timeout"):
            out["timeout_ms"] = http["timeout"]
        retries = _retries(http.get("retries"))
        if retries:
            out["retries"] = retries
        if "fault" in http:
            out["fault"] = _fault(http["fault"])
        mirrors = _mirrors(http, namespace, port, resolve)
        if mirrors:
            out["mirrors"] = mirrors
        ops = _ops(request)
        if ops:
            out["request_headers"] = ops
    ops = _ops(headers.get("response", {}))
    if ops:
        out["response_headers"] = ops
    if "corsPolicy" in http:
        out["cors"] = _cors(http["corsPolicy"])
    return out


def _mirrors(http: dict[str, Any], namespace: str, port: int, resolve: Resolve) -> list[ir.Mirror]:
    given = http.get("mirrors", [])
    if "mirror" in http:
        percent = http.get("mirrorPercent", http.get("mirror_percent", 100))
        given = [
            {"destination": http["mirror"], "percentage": http.get("mirrorPercentage", {"value": percent})}
        ]
    out: list[ir.Mirror] = []
    for m in given:
        ppm = round(m.get("percentage", {"value": 100}).get("value", 0) * 10_000)
        if ppm:
            out.append({"cluster": resolve(m["destination"], namespace, port), "ppm": ppm})
    return out


def _cors(cors: dict[str, Any]) -> ir.Cors:
    origins: list[ir.Origin] = []
    for o in [*cors.get("allowOrigins", ()), *({"exact": v} for v in cors.get("allowOrigin", ()))]:
        op, value = _op(o)
        origins.append({"op": "any"} if (op, value) == ("exact", "*") else {"op": op, "value": value})  # type: ignore[typeddict-item]
    out: ir.Cors = {"origins": origins}
    for field, key in (("allowMethods", "methods"), ("allowHeaders", "headers"), ("exposeHeaders", "expose")):
        if cors.get(field):
            out[key] = cors[field]  # type: ignore[literal-required]
    if "maxAge" in cors:
        out["max_age_s"] = cors["maxAge"] // 1000
    if cors.get("allowCredentials"):
        out["credentials"] = True
    if cors.get("unmatchedPreflights") == "IGNORE":
        out["forward"] = False
    return out


def _dests(route: list[dict[str, Any]], namespace: str, port: int, resolve: Resolve) -> list[dict[str, Any]]:
    out = []
    for d in route:
        weight = d.get("weight", 0) if len(route) > 1 else SINGLE_WEIGHT
        if not weight:
            continue  # gets no request
        dest: dict[str, Any] = {"cluster": resolve(d["destination"], namespace, port), "weight": weight}
        headers = d.get("headers", {})
        for side in ("request", "response"):
            ops = _ops(headers.get(side, {}))
            if ops:
                dest[f"{side}_headers"] = ops
        out.append(dest)
    return out


def _split_host(request: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Setting the host header is a rewrite of the authority."""
    host = ""
    kept = {}
    for k, v in request.get("set", {}).items():
        if k.lower() in ("host", ":authority"):
            host = v
        else:
            kept[k] = v
    return ({**request, "set": kept} if host else request), host


def _ops(h: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if h.get("remove"):
        out["remove"] = list(h["remove"])
    for op in ("set", "add"):
        if h.get(op):
            out[op] = [[k, v.replace("%%", "%")] for k, v in h[op].items()]
    return out


def _rewrite(rewrite: dict[str, Any], host: str) -> dict[str, str]:
    out = {}
    if "uri" in rewrite:
        out["path"] = rewrite["uri"]
    if "uriRegexRewrite" in rewrite:
        out["regex"], out["path"] = rewrite["uriRegexRewrite"]["match"], rewrite["uriRegexRewrite"]["rewrite"]
    if rewrite.get("authority", host):
        out["authority"] = rewrite.get("authority", host)
    return out


def _redirect(redirect: dict[str, Any], port: int) -> dict[str, Any]:
    out: dict[str, Any] = {"code": redirect.get("redirectCode", 301)}
    for field, key in (
        ("scheme", "scheme"),
        ("authority", "authority"),
        ("uri", "path"),
        ("prefixRewrite", "prefix"),
    ):
        if redirect.get(field):
            out[key] = redirect[field]
    if "port" in redirect:
        out["port"] = redirect["port"]
    elif redirect.get("derivePort") == "FROM_REQUEST_PORT":
        out["port"] = port
    return out


def _direct(direct: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"status": direct["status"]}
    body = direct.get("body")
    if body is not None:
        out["body"] = body["string"].encode() if "string" in body else body["bytes"]
        out["content_type"] = "text/plain"
    return out


GRPC_AS_HTTP: Final = {1: 499, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400,
                       12: 501, 14: 503, 16: 401}  # fmt: skip
"""What a request that is no gRPC call is answered with instead of a gRPC status; any other: 500."""


def _fault(fault: dict[str, Any]) -> ir.Fault:
    out: ir.Fault = {}
    delay, abort = fault.get("delay"), fault.get("abort")
    if delay is not None:
        out["delay_ppm"] = _ppm(delay)
        out["delay_ms"] = delay["fixedDelay"]
    if abort is not None:
        out["abort_ppm"] = _ppm(abort)
        if "grpcStatus" in abort:
            given = abort["grpcStatus"]
            number = int(given) if given.isdigit() else GRPC_STATUSES.index(given.upper())
            out["abort_grpc"] = number
            out["abort_status"] = 200 if number == 0 else GRPC_AS_HTTP.get(number, 500)
        else:
            out["abort_status"] = abort["httpStatus"]
    return out


def _ppm(part: dict[str, Any]) -> int:
    percent: float = part.get("percentage", {}).get("value", part.get("percent", 0))
    return round(percent * 10_000)


def _retries(retries: dict[str, Any] | None) -> dict[str, Any]:
    if retries is None:
        return dict(default_retries())
    if not retries.get("attempts"):
        return {}
    words = [w.strip() for w in retries.get("retryOn", "").split(",") if w.strip()]
    statuses = sorted({int(w) for w in words if w.isdigit()})
    words = [w for w in words if not w.isdigit()]
    if statuses and "retriable-status-codes" not in words:
        words.append("retriable-status-codes")  # a number alone says it, as in Istio
    out: dict[str, Any] = {"attempts": retries["attempts"], "retry_on": words or list(DEFAULT_RETRY_ON)}
    if statuses:
        out["statuses"] = statuses
    if "backoff" in retries:
        out["backoff_ms"] = retries["backoff"]
    if "perTryTimeout" in retries:
        out["per_try_timeout_ms"] = retries["perTryTimeout"]
    if not retries.get("retryIgnorePreviousHosts", True):
        out["same"] = True
    if retries.get("retryRemoteLocalities"):
        out["anywhere"] = True
    return out


def match_of(match: dict[str, Any]) -> dict[str, Any]:
    """The part of a route that a match alone makes."""
    return _match(match, {})
