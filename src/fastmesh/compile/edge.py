"""A config file -> the IR of an edge proxy (compile): Gateways become listeners, VirtualServices bound to
them become routes.

Runs in a short-lived process (see __main__.py): reads files and may use heavy libraries. Every Gateway of the
file belongs to this proxy, whatever its selector says.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastmesh.compile.clusters import (
    add_entry_endpoints,
    base_cluster,
    bracketed,
    cluster_name,
    is_dns,
    offered,
    origination,
    subset_labels,
)
from fastmesh.compile.fragment import place_text
from fastmesh.compile.inbound import ir_policy
from fastmesh.compile.l4 import l4_routes, takes_every_session
from fastmesh.compile.locality import arrange
from fastmesh.compile.routes import catch_all_last, compile_routes, source_of
from fastmesh.compile.tlsfiles import TlsFiles
from fastmesh.model.delegates import expanded
from fastmesh.model.formats import is_ip
from fastmesh.model.index import Index, host_matches, tls_blocks
from fastmesh.model.load import load_file
from fastmesh.model.problems import ConfigError, Problem, errors_of, warnings_of
from fastmesh.model.schema import Key, Resource
from fastmesh.model.validate import DEFAULT_BIND, bindings, traffic_of, validate

if TYPE_CHECKING:
    from fastmesh.model import ir

DEFAULT_NODE: Final = "edge"
ALPN: Final = ["h2", "http/1.1"]
"""Of a Gateway's servers. Never the mesh link's name: whoever calls here is no proxy of the mesh."""


def compile_edge_file(
    path: str, node_id: str = DEFAULT_NODE, locality: str = "", *, sources: bool = False
) -> ir.Config:
    """The IR of a file, or ConfigError with all that is wrong with it. TLS files are relative to the file's
    folder. `sources`: each route says where it comes from."""
    loaded = load_file(path)
    folder = Path(path).resolve().parent
    return compile_edge(
        loaded.resources, folder, node_id, loaded.problems, sources=sources, locality=locality
    )


def compile_edge(
    resources: list[Resource],
    folder: Path,
    node_id: str = DEFAULT_NODE,
    problems: list[Problem] | None = None,
    *,
    sources: bool = False,
    locality: str = "",
) -> ir.Config:
    """The same from resources that are loaded already; `problems`: what loading them has found; `locality`:
    where the proxy is."""
    found = list(problems or ())
    found += validate(resources, edge=True, incomplete=bool(errors_of(found)))
    found += regex_problems(resources)
    edge = _Edge(Index(resources), TlsFiles(folder, found), found, sources)
    config = edge.compile(node_id)
    config["clusters"] = [arrange(cluster, locality, {}) for cluster in config["clusters"]]
    if errors_of(found):
        raise ConfigError(found)
    texts = [str(p) for p in warnings_of(found)]
    if texts:
        config["warnings"] = texts
    return config


def regex_problems(resources: list[Resource]) -> list[Problem]:
    """What RE2 itself says of every regex, where the data plane's extension is built; the schema has caught
    most."""
    try:
        from fastmesh._core.shm.pack import regex_check, rewrite_check
    except ImportError:
        return []
    out: list[Problem] = []

    def walk(r: Resource, value: Any, path: tuple[str | int, ...]) -> None:
        if isinstance(value, dict):
            for k, v in value.items():
                if k == "regex" and isinstance(v, str) and v != "*":
                    why = regex_check(v.encode())
                    if why is not None:
                        out.append(r.problem((*path, k), f"the regex is refused by RE2: {why}"))
                else:
                    walk(r, v, (*path, k))
        elif isinstance(value, list):
            for i, v in enumerate(value):
                walk(r, v, (*path, i))

    for r in resources:
        if r.kind == "VirtualService":
            for i, http in enumerate(r.spec["http"]):
                for part in ("match", "corsPolicy"):
                    walk(r, http.get(part, []), ("spec", "http", i, part))
                rewrite = http.get("rewrite", {}).get("uriRegexRewrite")
                if rewrite is not None:
                    at = ("spec", "http", i, "rewrite", "uriRegexRewrite")
                    why = regex_check(rewrite["match"].encode())
                    if why is not None:
                        out.append(r.problem((*at, "match"), f"the regex is refused by RE2: {why}"))
                    elif (
                        why := rewrite_check(rewrite["match"].encode(), rewrite["rewrite"].encode())
                    ) is not None:
                        out.append(r.problem((*at, "rewrite"), why))
    return out


@dataclass(slots=True)
class _Server:
    gateway: Resource
    index: int
    spec: dict[str, Any]

    @property
    def ref(self) -> str:
        return f"{self.gateway.namespace}/{self.gateway.name}"

    @property
    def redirects(self) -> bool:
        return bool(self.spec.get("tls", {}).get("httpsRedirect"))


@dataclass(slots=True)
class _Domain:
    """What a host of a listener is served by: (VirtualService, gateway) in order."""

    rules: dict[tuple[Key, str], None] = field(default_factory=dict)
    redirects: bool = False


class _Edge:
    def __init__(self, index: Index, files: TlsFiles, problems: list[Problem], sources: bool) -> None:
        self.sources = sources
        self.index = index
        self.files = files
        self.problems = problems
        self.clusters: dict[str, ir.Cluster] = {}
        self.contexts: dict[str, ir.TlsContext] = {}
        self.client_names: dict[tuple[Any, ...], str] = {}
        self.broken = bool(errors_of(problems))

    def compile(self, node_id: str) -> ir.Config:
        groups: dict[tuple[str, int], list[_Server]] = {}
        for gateway in self.index.kind("Gateway"):
            for i, spec in enumerate(gateway.spec["servers"]):
                key = (spec.get("bind", DEFAULT_BIND), spec["port"]["number"])
                groups.setdefault(key, []).append(_Server(gateway, i, spec))
        config: ir.Config = {"node_id": node_id, "listeners": [], "tables": [], "clusters": [], "tls": []}
        bound = bindings(self.index)
        for (bind, port), servers in groups.items():
            name = f"[{bind}]_{port}" if ":" in bind else f"{bind}_{port}"
            config["listeners"].append(self.listener(name, bind, port, servers))
            # Files are checked in any case, so that all that is wrong is told at once. Routes need a config
            # that holds together.
            if not self.broken:
                kind = traffic_of(servers[0].spec)
                if kind == "http":
                    hosts = self.virtual_hosts(port, servers, bound)
                else:
                    hosts = self.l4_hosts(kind, port, servers, bound)
                config["tables"].append({"name": name, "virtual_hosts": hosts})
        self.check_client_files()
        config["clusters"] = list(self.clusters.values())
        config["tls"] = list(self.contexts.values())
        return config

    def check_client_files(self) -> None:
        """Also of rules that no route uses."""
        for rule in self.index.kind("DestinationRule"):
            for at, tls in tls_blocks(rule):
                if tls.get("mode") in ("SIMPLE", "MUTUAL"):
                    self.files.pair(rule, at, tls, "clientCertificate", "privateKey")
                    self.files.bundle(rule, at, tls, "caCertificates")

    # -- listeners -------------------------------------------------------------------------------------------

    def listener(self, name: str, bind: str, port: int, servers: list[_Server]) -> ir.Listener:
        out: ir.Listener = {
            "name": name,
            "kind": "gateway",
            "address": bind,
            "port": port,
            "table": name,
            "tls_mode": "disable",
        }
        traffic = traffic_of(servers[0].spec)
        if traffic == "tls":
            out["protocol"] = "sni"
            return out
        if traffic == "tcp":
            out["protocol"] = "tcp"
        if servers[0].spec["port"]["protocol"] in ("HTTPS", "TLS"):
            out["tls_mode"] = "strict"
            out["tls"] = [self.server_context(s) for s in servers]
        elif all(s.redirects for s in servers):
            out["https_redirect"] = True
        policies = [
            ir_policy(p)
            for p in sorted(self.index.kind("AuthorizationPolicy"), key=lambda p: (p.namespace, p.name))
            if not p.spec.get("selector", {}).get("matchLabels")
        ]
        if policies:
            out["authz"] = {"policies": policies}
        return out

    def server_context(self, server: _Server) -> str:
        tls = server.spec.get("tls", {})
        name = f"{server.ref}/{server.spec.get('name') or server.spec['port']['name']}"
        if name in self.contexts:
            name = f"{name}#{server.index}"
        mutual = tls.get("mode") == "MUTUAL"
        context: ir.TlsContext = {
            "name": name,
            "server": True,
            "alpn": list(ALPN) if traffic_of(server.spec) == "http" else [],
            "verify": mutual,
            "min_version": tls.get("minProtocolVersion", "1.2"),
        }
        at = ("spec", "servers", server.index, "tls")
        cert, key = self.files.pair(server.gateway, at, tls, "serverCertificate", "privateKey")
        context["cert"], context["key"] = cert, key
        if mutual:
            context["ca"] = self.files.bundle(server.gateway, at, tls, "caCertificates")
        hosts = [h.rpartition("/")[2].lower() for h in server.spec["hosts"]]
        if "*" not in hosts:
            context["hosts"] = hosts
        self.contexts[name] = context
        return name

    # -- routes ----------------------------------------------------------------------------------------------

    def virtual_hosts(
        self, port: int, servers: list[_Server], bound: dict[str, list[Resource]]
    ) -> list[ir.VirtualHost]:
        domains: dict[str, _Domain] = {}
        mixed = any(s.redirects for s in servers) and not all(s.redirects for s in servers)
        for server in servers:
            if mixed and server.redirects:
                for h in server.spec["hosts"]:
                    domains.setdefault(h.rpartition("/")[2].lower(), _Domain()).redirects = True
            for vs in bound.get(server.ref, ()):
                for domain in served_hosts(server.spec["hosts"], server.gateway.namespace, vs):
                    entry = domains.setdefault(domain, _Domain())
                    entry.rules[(vs.key, server.ref)] = None
                    entry.redirects |= mixed and server.redirects
        compiled: dict[tuple[Key, str], list[ir.Route]] = {}
        grouped: dict[tuple[tuple[tuple[Key, str], ...], bool], list[str]] = {}
        for domain, entry in domains.items():
            grouped.setdefault((tuple(entry.rules), entry.redirects), []).append(domain)
        out: list[ir.VirtualHost] = []
        for (rules, redirects), names in grouped.items():
            routes: list[ir.Route] = []
            if redirects:
                routes = [{"redirect": {"code": 301, "scheme": "https"}}]
            else:
                for key, ref in rules:
                    if (key, ref) not in compiled:
                        given = self.index.by_key[key]
                        vs = expanded(self.index, given)
                        places: list[str] = []
                        # an edge has no labels and no namespace that a source could have
                        routes_here = compile_routes(vs, ref, port, self.resolve, places)
                        if self.sources:
                            for route, place in zip(routes_here, places, strict=True):
                                # rules of a delegate stand elsewhere
                                known = place_text(source_of(vs), place) if vs is given else source_of(vs)
                                route["origin"] = known
                        compiled[key, ref] = [r for r in routes_here if "source" not in r]
                    routes += compiled[key, ref]
                if len(rules) > 1:
                    routes = catch_all_last(routes)
            out.append({"name": f"{names[0]}:{port}", "domains": names, "routes": routes})
        return out

    def l4_hosts(
        self, kind: str, port: int, servers: list[_Server], bound: dict[str, list[Resource]]
    ) -> list[ir.VirtualHost]:
        """Of a listener for TCP: one that takes all; of one that passes TLS through: by name."""
        domains: dict[str, dict[tuple[Key, str, int], ir.Route]] = {}
        for server in servers:
            for vs in bound.get(server.ref, ()):
                if not served_hosts(server.spec["hosts"], server.gateway.namespace, vs):
                    continue
                routes = l4_routes(vs, "tls" if kind == "tls" else "tcp", server.ref, port, self.resolve_l4)
                for i, (names, route) in enumerate(routes):
                    if "source" in route:
                        continue  # an edge has no labels and no namespace that a source could have
                    asked = replace(vs, spec={**vs.spec, "hosts": names})
                    served = served_hosts(server.spec["hosts"], server.gateway.namespace, asked)
                    for domain in served if kind == "tls" else ["*"]:
                        # once, although two servers of a gateway may cover it
                        domains.setdefault(domain, {}).setdefault((vs.key, server.ref, i), route)
        return [
            {
                "name": f"{domain}:{port}",
                "domains": [domain],
                "routes": sorted(found.values(), key=takes_every_session),
            }
            for domain, found in domains.items()
        ]

    def resolve_l4(self, destination: dict[str, Any], namespace: str, listener_port: int) -> str:
        return self.resolve(destination, namespace, listener_port, opaque=True)

    def resolve(
        self, destination: dict[str, Any], namespace: str, listener_port: int, *, opaque: bool = False
    ) -> str:
        host = self.index.canonical(destination["host"], namespace)
        service = self.index.service(host)
        ports = list(service.ports) if service is not None else []
        port = destination.get("port", {}).get("number") or (ports[0] if len(ports) == 1 else listener_port)
        subset = destination.get("subset", "")
        name = cluster_name(port, subset, host)
        if name not in self.clusters and service is not None:
            self.clusters[name] = self.cluster(host, port, subset, opaque)
        return name

    # -- clusters --------------------------------------------------------------------------------------------

    def cluster(self, host: str, port: int, subset: str, opaque: bool = False) -> ir.Cluster:
        service = self.index.service(host)
        assert service is not None  # validate has refused unknown hosts
        rule = self.index.rule(host)
        out, tls = base_cluster(self.index, host, port, subset, service.namespace, opaque=opaque)
        add_entry_endpoints(out, self.index, service, host, port, subset_labels(rule, subset))
        if is_dns(service) and any(not is_ip(e["address"]) for e in out["endpoints"]):
            out["dns"] = True
        if out.get("original_dst"):
            self.problems.append(
                service.entries[0].problem(
                    ("spec", "hosts"),
                    f"{host}:{port} is under a DestinationRule with loadBalancer.simple PASSTHROUGH",
                    "that is for sidecars with --intercept: nobody has called an edge by another address",
                )
            )
        if tls is not None and tls.get("mode", "DISABLE") != "DISABLE":
            alpn = offered(self.index, out, host, port)
            name = self.client_context(tls, host, port, subset, alpn)
            out["tls"], _ = origination(tls, host, service, name, alpn)
            for e in out["endpoints"]:
                e["tls"] = True
        elif service.ports[port].protocol == "HTTPS" and not opaque:
            at = next(i for i, p in enumerate(service.entries[0].spec["ports"]) if p["number"] == port)
            self.problems.append(
                service.entries[0].problem(
                    ("spec", "ports", at, "protocol"),
                    f"{host}:{port} is HTTPS, and is sent plain HTTP",
                    "originate TLS: a DestinationRule with trafficPolicy.tls.mode SIMPLE",
                    warning=True,
                )
            )
        if not out["endpoints"]:
            entry = service.entries[0]
            self.problems.append(
                entry.problem(
                    ("spec",),
                    f"gives no endpoint to {out['name']}: requests to it get 503",
                    "check the labels of the subset and of the endpoints",
                    warning=True,
                )
            )
        return out

    def client_context(self, tls: dict[str, Any], host: str, port: int, subset: str, alpn: list[str]) -> str:
        """One context for the same files and the same protocols, however many clusters use it."""
        fields = ("clientCertificate", "privateKey", "caCertificates", "insecureSkipVerify")
        content = (*(tls.get(k) for k in fields), *alpn)
        if content in self.client_names:
            return self.client_names[content]
        name = f"client/{host}" + (f"/{subset}" if subset else "")
        while name in self.contexts:
            name = f"{name}:{port}"
        _, raw = origination(tls, host, None, name, alpn)
        context: ir.TlsContext = {"name": name, "server": False, "verify": raw["verify"], "alpn": raw["alpn"]}
        owner, at = tls_owner(self.index, host, port, subset)
        if "cert_file" in raw:
            context["cert"], context["key"] = self.files.pair(
                owner, at, tls, "clientCertificate", "privateKey"
            )
        if "ca_file" in raw:
            context["ca"] = self.files.bundle(owner, at, tls, "caCertificates")
        self.contexts[name] = context
        self.client_names[content] = name
        return name


def served_hosts(server_hosts: list[str], gateway_namespace: str, vs: Resource) -> list[str]:
    """The hosts that a server of a gateway serves for a VirtualService: of each pair of covering names the
    narrower."""
    out: dict[str, None] = {}
    patterns = []
    exact = set()
    for raw in server_hosts:
        namespace, _, host = raw.lower().rpartition("/")
        if namespace in ("", "*", vs.namespace) or (namespace == "." and gateway_namespace == vs.namespace):
            if "*" in host:
                patterns.append(host)
            else:
                exact.add(host)
    for raw in vs.spec["hosts"]:
        host = raw.lower()
        if host in exact or any(host_matches(p, host) for p in patterns):
            out[host] = None
        elif "*" in host:
            out.update((h, None) for h in [*sorted(exact), *patterns] if host_matches(host, h))
    return [bracketed(h) for h in out]


def tls_owner(index: Index, host: str, port: int, subset: str) -> tuple[Resource, tuple[str | int, ...]]:
    """Which DestinationRule's field the tls settings of a destination come from, for messages."""
    rule = index.rule(host)
    assert rule is not None
    places: list[tuple[Resource, tuple[str | int, ...], dict[str, Any]]] = []
    found = rule.subset(subset) if subset else None
    if found is not None:
        owner, i = found
        places.append(
            (
                owner,
                ("spec", "subsets", i, "trafficPolicy"),
                owner.spec["subsets"][i].get("trafficPolicy", {}),
            )
        )
    top, policy = rule.top()
    assert top is not None
    places.append((top, ("spec", "trafficPolicy"), policy))
    for owner, at, p in places:
        for i, own in enumerate(p.get("portLevelSettings", ())):
            if own["port"]["number"] == port and "tls" in own:
                return owner, (*at, "portLevelSettings", i, "tls")
        if "tls" in p:
            return owner, (*at, "tls")
    return top, ("spec", "trafficPolicy", "tls")
