"""What resources must say together (model): references, duplicates, contradictions between objects. Each
object's own shape is its schema's.

`validate` reports everything; nothing here raises. In a mesh services come and go, so an unknown host is a
warning there; an edge's file must hold all that it needs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from fastmesh.model.delegates import delegations, is_delegate, merge_rule
from fastmesh.model.fields import NOT_YET, did_you_mean
from fastmesh.model.index import ROOT_NAMESPACE, Index, Rule, effective_policy, policy_blocks
from fastmesh.model.problems import Path, Problem
from fastmesh.model.protocols import HTTP2, OPAQUE, port_protocol
from fastmesh.model.schema import Key, Resource

MESH = "mesh"
BOOLEANS = ("1", "t", "T", "true", "TRUE", "True", "0", "f", "F", "false", "FALSE", "False")
MAX_TERMS = 16384
"""Pairs of a source and an operation that are judged at one listener: as SNAP_MAX_TERMS."""
DEFAULT_BIND = "0.0.0.0"
"""Where a Gateway's server without `bind` listens."""


def validate(
    resources: Iterable[Resource],
    *,
    edge: bool = False,
    services: Collection[str] = (),
    incomplete: bool = False,
) -> list[Problem]:
    """Everything that is wrong between these objects.

    `edge`: a proxy without a control plane. `services`: full names of services that the registry knows
    besides. `incomplete`: some objects were refused already, so a reference to what is not there is no
    news."""
    given = list(resources)
    return _Validator(Index(given), given, edge, set(services), incomplete).run()


def bindings(index: Index) -> dict[str, list[Resource]]:
    """VirtualServices by what they apply to: "namespace/gateway" or "mesh", in the order of the file."""
    out: dict[str, list[Resource]] = {}
    for vs in index.kind("VirtualService"):
        if is_delegate(vs):
            continue
        for ref in dict.fromkeys(ref for ref, _ in references(vs)):
            out.setdefault(ref, []).append(vs)
    return out


def references(vs: Resource) -> list[tuple[str, Path]]:
    """Every gateway that a VirtualService names (also in matches), as "namespace/name" or "mesh", with
    where."""

    def full(name: str) -> str:
        return name if name == MESH or "/" in name else f"{vs.namespace}/{name}"

    out: list[tuple[str, Path]] = []
    names = vs.spec.get("gateways", [])
    if not names:
        out.append((MESH, ("spec", "gateways")))
    out += [(full(n), ("spec", "gateways", i)) for i, n in enumerate(names)]
    for h, http in enumerate(vs.spec["http"]):
        for m, match in enumerate(http.get("match", ())):
            out += [
                (full(n), ("spec", "http", h, "match", m, "gateways", i))
                for i, n in enumerate(match.get("gateways", ()))
            ]
    for kind in ("tls", "tcp"):
        for h, rule in enumerate(vs.spec.get(kind, ())):
            for m, match in enumerate(rule.get("match", ())):
                out += [
                    (full(n), ("spec", kind, h, "match", m, "gateways", i))
                    for i, n in enumerate(match.get("gateways", ()))
                ]
    return out


def covers(pattern: str, name: str) -> bool:
    """Whether a host of a VirtualService covers a name, or a wildcard, of its sniHosts."""
    return pattern in ("*", name) or (
        pattern.startswith("*.") and name.removeprefix("*").endswith(pattern[1:])
    )


def traffic_of(server: dict[str, Any]) -> str:
    """Which rules of VirtualServices a Gateway's server is for: http, tcp, or tls (passed through)."""
    if server.get("tls", {}).get("mode") == "PASSTHROUGH":
        return "tls"
    return "tcp" if server["port"]["protocol"] in OPAQUE else "http"


class _Validator:
    def __init__(
        self, index: Index, given: list[Resource], edge: bool, services: set[str], incomplete: bool
    ) -> None:
        self.index = index
        self.given = given
        self.edge = edge
        self.known = services
        self.incomplete = incomplete
        self.problems: list[Problem] = []

    def run(self) -> list[Problem]:
        self.duplicates()
        self.virtual_services()
        self.delegates()
        self.mesh_hosts()
        self.destination_rules()
        self.gateways()
        self.service_entries()
        self.peer_authentications()
        self.authorization_policies()
        self.local_rate_limits()
        return self.problems

    def add(self, r: Resource, path: Path, message: str, hint: str = "", *, warning: bool = False) -> None:
        self.problems.append(r.problem(path, message, hint, warning=warning))

    def duplicates(self) -> None:
        seen: dict[Key, Resource] = {}
        for r in self.given:
            first = seen.setdefault(r.key, r)
            if first is not r:
                self.add(
                    r,
                    ("metadata", "name"),
                    "is defined twice",
                    f"first at line {first.origin.line}" if first.origin.line else "",
                )

    # -- VirtualService --------------------------------------------------------------------------------------

    def virtual_services(self) -> None:
        gateways = {f"{g.namespace}/{g.name}": g for g in self.index.kind("Gateway")}
        roots: dict[Key, list[Resource]] = {}
        for root, _, key in delegations(self.index):
            roots.setdefault(key, []).append(root)
        for vs in self.index.kind("VirtualService"):
            refs = references(vs)
            if is_delegate(vs):
                refs = [ref for root in roots.get(vs.key, ()) for ref in references(root)]
            for ref, path in () if is_delegate(vs) else refs:
                if ref != MESH and ref not in gateways and not self.incomplete:
                    self.add(
                        vs,
                        path,
                        f"there is no Gateway {ref}",
                        did_you_mean(ref, list(gateways)),
                        warning=not self.edge,
                    )
            if self.edge and all(ref == MESH for ref, _ in refs) and not is_delegate(vs):
                self.add(
                    vs,
                    ("spec", "gateways"),
                    "applies to sidecars only: this proxy does not use it",
                    "name a Gateway of this file",
                    warning=True,
                )
            for h, http in enumerate(vs.spec["http"]):
                at: Path = ("spec", "http", h)
                for d, dest in enumerate(http.get("route", ())):
                    self.destination(vs, (*at, "route", d, "destination"), dest["destination"], refs)
                if "mirror" in http:
                    self.destination(vs, (*at, "mirror"), http["mirror"], refs)
                for d, dest in enumerate(http.get("mirrors", ())):
                    self.destination(vs, (*at, "mirrors", d, "destination"), dest["destination"], refs)
                for m, match in enumerate(http.get("match", ())):
                    for field in ("sourceLabels", "sourceNamespace"):
                        if self.edge and match.get(field):
                            self.add(
                                vs,
                                (*at, "match", m, field),
                                "is for sidecars: on an edge this never matches",
                                warning=True,
                            )

            self.l4_rules(vs, refs)

    def l4_rules(self, vs: Resource, refs: list[tuple[str, Path]]) -> None:
        """The tls and tcp rules of a VirtualService."""
        for kind in ("tls", "tcp"):
            for h, rule in enumerate(vs.spec.get(kind, ())):
                at: Path = ("spec", kind, h)
                for d, dest in enumerate(rule["route"]):
                    self.destination(vs, (*at, "route", d, "destination"), dest["destination"], refs)
                for m, match in enumerate(rule.get("match", ())):
                    for field in ("sourceLabels", "sourceNamespace"):
                        if self.edge and match.get(field):
                            self.add(
                                vs,
                                (*at, "match", m, field),
                                "is for sidecars: on an edge this never matches",
                                warning=True,
                            )
                    for i, name in enumerate(match.get("sniHosts", ())):
                        # Istio's rule; one that no host covers would take no session
                        if not any(covers(host.lower(), name.lower()) for host in vs.spec.get("hosts", ())):
                            self.add(
                                vs,
                                (*at, "match", m, "sniHosts", i),
                                f"{name} is none of this VirtualService's hosts",
                                f"its hosts: {', '.join(vs.spec.get('hosts', ()))}",
                            )
        if self.edge and not self.incomplete:
            self.servers_for(vs, {ref for ref, _ in refs})

    def servers_for(self, vs: Resource, named: set[str]) -> None:
        """Rules that no server of the named gateways is for."""
        servers = [
            s
            for g in self.index.kind("Gateway")
            if f"{g.namespace}/{g.name}" in named
            for s in g.spec["servers"]
        ]
        for kind, wanted in (
            ("http", "speaks HTTP"),
            ("tls", "passes TLS through"),
            ("tcp", "speaks TCP, or ends TLS for it"),
        ):
            if vs.spec.get(kind) and servers and not any(traffic_of(s) == kind for s in servers):
                self.add(
                    vs,
                    ("spec", kind),
                    f"has no effect: no server of its gateways {wanted}",
                    warning=True,
                )

    def delegates(self) -> None:
        """One level; a delegate's rule that contradicts the one above it would take no request."""
        used: set[Key] = set()
        for vs, h, key in delegations(self.index):
            at: Path = ("spec", "http", h)
            used.add(key)
            found = self.index.by_key.get(key)
            if found is None:
                if not self.incomplete:
                    self.add(
                        vs,
                        (*at, "delegate"),
                        f"there is no VirtualService {key[1]}/{key[2]}",
                        "requests pass this rule by until there is one",
                        warning=not self.edge,
                    )
                continue
            if not is_delegate(found):
                self.add(
                    vs,
                    (*at, "delegate"),
                    f"VirtualService {key[1]}/{key[2]} has hosts of its own",
                    "a delegate has none",
                )
                continue
            for i, own in enumerate(found.spec["http"]):
                if merge_rule(self.index, vs.spec["http"][h], own, found.namespace) is None:
                    self.add(
                        vs,
                        (*at, "match"),
                        f"contradicts http[{i}] of VirtualService {key[1]}/{key[2]}: no request matches both",
                        "a delegate's match is narrower",
                    )
        for vs in self.index.kind("VirtualService"):
            if is_delegate(vs) and vs.key not in used and not self.incomplete:
                self.add(
                    vs,
                    ("spec", "hosts"),
                    "there are none, and no VirtualService delegates to this one: it has no effect",
                    warning=True,
                )

    def destination(
        self, vs: Resource, path: Path, dest: dict[str, Any], refs: list[tuple[str, Path]]
    ) -> None:
        host = self.index.canonical(dest["host"], vs.namespace)
        service = self.index.service(host)
        if "*" in dest["host"]:
            self.add(vs, (*path, "host"), f"{dest['host']}: a wildcard is no destination")
            return
        if service is None and host not in self.known and not self.incomplete:
            known = list(self.index.services)
            if self.edge:
                self.add(
                    vs,
                    (*path, "host"),
                    f"no ServiceEntry defines {host}",
                    did_you_mean(dest["host"], known) or "define it with a ServiceEntry",
                )
            else:
                self.add(
                    vs,
                    (*path, "host"),
                    f"no service is known as {host} now",
                    "requests get 503 until there is one",
                    warning=True,
                )
        if service is not None and host not in self.known:
            number = dest.get("port", {}).get("number")
            ports = ", ".join(map(str, service.ports))
            if number is not None and number not in service.ports:
                self.add(vs, (*path, "port", "number"), f"{host} has no port {number}", f"its ports: {ports}")
            elif number is None and len(service.ports) > 1:
                missing = [p for p in self.listener_ports(refs) if p not in service.ports]
                if missing:
                    self.add(
                        vs,
                        path,
                        f"{host} has several ports and none is chosen",
                        f"give port.number, one of {ports}",
                    )
        self.subset(vs, (*path, "subset"), host, dest.get("subset", ""))

    def listener_ports(self, refs: list[tuple[str, Path]]) -> list[int]:
        """The ports of the gateways that a VirtualService is bound to: where no port is given, the listener's
        is taken."""
        named = {ref for ref, _ in refs}
        return [
            s["port"]["number"]
            for g in self.index.kind("Gateway")
            if f"{g.namespace}/{g.name}" in named
            for s in g.spec["servers"]
        ]

    def subset(self, vs: Resource, path: Path, host: str, subset: str) -> None:
        if not subset or self.incomplete:
            return
        rule: Rule | None = self.index.rule(host)
        if rule is None:
            self.add(
                vs,
                path,
                f"there is no subset {subset}: no DestinationRule is for {host}",
                "define the subset with a DestinationRule",
            )
        elif rule.subset(subset) is None:
            names = rule.subset_names()
            self.add(
                vs,
                path,
                f"there is no subset {subset} in the DestinationRule of {host}",
                did_you_mean(subset, names)
                or (f"its subsets: {', '.join(names)}" if names else "it has no subsets"),
            )

    def mesh_hosts(self) -> None:
        """Sidecars: Istio takes one of several VirtualServices for a host and drops the others; nothing is
        dropped here."""
        seen: dict[str, Resource] = {}
        for vs in self.index.kind("VirtualService"):
            if MESH not in [ref for ref, _ in references(vs)]:
                continue
            for i, raw in enumerate(vs.spec.get("hosts", ())):
                if raw == "*" and not self.edge:
                    self.add(
                        vs,
                        ("spec", "hosts", i),
                        '"*" is possible for gateways only',
                        "name the hosts, or *.suffix; or name the gateways without mesh",
                    )
                host = self.index.canonical(raw, vs.namespace)
                first = seen.setdefault(host, vs)
                if first is not vs:
                    self.add(
                        vs,
                        ("spec", "hosts", i),
                        f"{host} is routed by VirtualService {first.namespace}/{first.name} already",
                        "for sidecars a host has one VirtualService: put all its rules there",
                    )

    # -- DestinationRule -------------------------------------------------------------------------------------

    def destination_rules(self) -> None:
        for host, rule in self.index.rules.items():
            owners: dict[str, Resource] = {}
            first: Resource | None = None
            for r in rule.resources:
                for i, s in enumerate(r.spec.get("subsets", ())):
                    owner = owners.setdefault(s["name"], r)
                    if owner is not r:
                        self.add(
                            r,
                            ("spec", "subsets", i, "name"),
                            f"the subset {s['name']} of {host} is defined by "
                            f"DestinationRule {owner.namespace}/{owner.name} already",
                        )
                if r.spec.get("trafficPolicy"):
                    if first is not None:
                        self.add(
                            r,
                            ("spec", "trafficPolicy"),
                            f"DestinationRule {first.namespace}/{first.name} gives one for {host} already",
                            "a host has one top-level trafficPolicy",
                        )
                    first = first or r
                self.grpc_checks(host, rule, r)
                if self.edge:
                    self.edge_tls(r)
                    if self.index.service(host) is None and "*" not in host and not self.incomplete:
                        self.add(
                            r,
                            ("spec", "host"),
                            f"no ServiceEntry defines {host}: the rule has no effect",
                            did_you_mean(r.spec["host"], list(self.index.services)),
                            warning=True,
                        )

    def grpc_checks(self, host: str, rule: Rule, r: Resource) -> None:
        """A gRPC check of a port whose TLS offers HTTP/1.1 only can never pass (refused by Envoy, too)."""
        service = self.index.service(host)
        for at, checks in policy_blocks(r, "healthChecks"):
            if "grpcHealthCheck" not in checks or service is None:
                continue
            subset = r.spec["subsets"][at[2]]["name"] if at[1] == "subsets" else ""
            for port in service.ports.values():
                policy = effective_policy(rule, subset, port.number)
                http = policy.get("connectionPool", {}).get("http", {})
                if (
                    policy.get("healthChecks") is checks
                    and policy.get("tls", {}).get("mode") in ("SIMPLE", "MUTUAL")
                    and port.protocol not in HTTP2
                    and not http.get("useClientProtocol")
                    and http.get("h2UpgradePolicy") != "UPGRADE"
                ):
                    self.add(
                        r,
                        (*at, "grpcHealthCheck"),
                        f"needs HTTP/2, which TLS to port {port.number} of {host} does not offer",
                        "declare the port's protocol as GRPC or HTTP2, or set h2UpgradePolicy: UPGRADE",
                    )
                    break

    def edge_tls(self, r: Resource) -> None:
        """ISTIO_MUTUAL needs an identity from a control plane."""
        for at, tls in policy_blocks(r, "tls"):
            if tls.get("mode") == "ISTIO_MUTUAL":
                self.add(
                    r,
                    (*at, "mode"),
                    f"ISTIO_MUTUAL for an edge without a control plane: {NOT_YET}",
                    "use MUTUAL with files",
                )

    # -- Gateway ---------------------------------------------------------------------------------------------

    def gateways(self) -> None:
        bound = bindings(self.index)
        ports: dict[tuple[str, int], tuple[Resource, dict[str, Any]]] = {}
        if self.edge and not self.index.kind("Gateway") and not self.incomplete:
            self.problems.append(Problem("there is no Gateway: an edge needs one to know where to listen"))
        for g in self.index.kind("Gateway"):
            if self.edge and f"{g.namespace}/{g.name}" not in bound and not self.incomplete:
                self.add(
                    g,
                    ("metadata", "name"),
                    "no VirtualService is bound to this Gateway: every request gets 404",
                    warning=True,
                )
            for i, s in enumerate(g.spec["servers"]):
                key = (s.get("bind", DEFAULT_BIND), s["port"]["number"])
                first_g, first = ports.setdefault(key, (g, s))
                if first is not s:
                    self.same_port(g, i, s, first_g, first)

    def same_port(
        self, g: Resource, i: int, s: dict[str, Any], first_g: Resource, first: dict[str, Any]
    ) -> None:
        number = s["port"]["number"]
        path: Path = ("spec", "servers", i)
        # HTTP, HTTP2 and GRPC are one: a listener tells the versions apart by their first bytes.
        kinds = [(traffic_of(each), each["port"]["protocol"] in ("HTTPS", "TLS")) for each in (s, first)]
        if kinds[0] != kinds[1]:
            self.add(
                g,
                (*path, "port", "protocol"),
                f"{s['port']['protocol']} contradicts {first['port']['protocol']} on port "
                f"{number} of Gateway {first_g.namespace}/{first_g.name}",
            )
            return
        own, other = s.get("tls", {}), first.get("tls", {})
        if s["port"]["protocol"] in ("HTTPS", "TLS"):
            asks = [
                (t.get("mode"), t.get("caCertificates") if t.get("mode") == "MUTUAL" else None)
                for t in (own, other)
            ]
            if asks[0] != asks[1]:
                # a client could shake hands with one server's name and ask for the other's host
                self.add(
                    g,
                    (*path, "tls"),
                    f"servers of port {number} that ask clients for different certificates: {NOT_YET}",
                    "give all servers of a port the same mode and caCertificates, or use another port",
                )
            if own.get("minProtocolVersion", "1.2") != other.get("minProtocolVersion", "1.2"):
                self.add(
                    g,
                    (*path, "tls", "minProtocolVersion"),
                    f"differs from another server of port {number}: {NOT_YET}",
                )

    # -- the others ------------------------------------------------------------------------------------------

    def service_entries(self) -> None:
        for host, service in self.index.services.items():
            protocols: dict[int, str] = {}
            for entry in service.entries:
                for i, p in enumerate(entry.spec["ports"]):
                    protocol = port_protocol(p) or "HTTP"
                    if protocols.setdefault(p["number"], protocol) != protocol:
                        self.add(
                            entry,
                            ("spec", "ports", i, "protocol"),
                            f"contradicts another ServiceEntry of {host}",
                        )
                if self.edge and "addresses" in entry.spec:
                    self.add(entry, ("spec", "addresses"), "has no effect on an edge", warning=True)
                if entry.spec.get("resolution") != service.entries[0].spec.get("resolution"):
                    self.add(entry, ("spec", "resolution"), f"contradicts another ServiceEntry of {host}")

    def local_rate_limits(self) -> None:
        for limit in self.index.kind("LocalRateLimit"):
            if self.edge:
                self.add(
                    limit,
                    ("kind",),
                    "has no effect on an edge",
                    "use localRateLimit of a VirtualService",
                    warning=True,
                )

    def peer_authentications(self) -> None:
        seen: dict[tuple[Any, ...], Resource] = {}
        for p in self.index.kind("PeerAuthentication"):
            if self.edge:
                self.add(p, ("kind",), "has no effect on an edge", warning=True)
            labels = p.spec.get("selector", {}).get("matchLabels", {})
            first = seen.setdefault((p.namespace, *sorted(labels.items())), p)
            if first is not p:
                self.add(
                    p,
                    ("spec", "selector"),
                    f"PeerAuthentication {first.namespace}/{first.name} is for the same workloads",
                )

    def authorization_policies(self) -> None:
        totals: dict[str, int] = {}
        for p in self.index.kind("AuthorizationPolicy"):
            pairs = sum(
                max(1, len(rule.get("from", ()))) * max(1, len(rule.get("to", ())))
                for rule in p.spec.get("rules", ())
            )
            where = "" if self.edge or p.namespace == ROOT_NAMESPACE else p.namespace
            totals[where] = totals.get(where, 0) + pairs
            # a group of terms begins with a word of its own (32 bits): 5 groups
            if totals[where] + (totals.get("", 0) if where else 0) > MAX_TERMS - 5 * 32:
                self.add(
                    p,
                    ("spec", "rules"),
                    "with the others for the same workloads: more than "
                    f"{MAX_TERMS - 160} pairs of a source and an operation",
                )
            for name in ("istio.io/dry-run", "networking.fastmesh.io/name-denials"):
                given = p.annotations.get(name, "true")
                if given not in BOOLEANS:
                    self.add(
                        p, ("metadata", "annotations", name), f'must be "true" or "false", not "{given}"'
                    )
            if self.edge and p.spec.get("selector", {}).get("matchLabels"):
                self.add(
                    p,
                    ("spec", "selector"),
                    "selects workloads, and an edge is none: the policy would be without effect",
                    "leave the selector out: it is for all listeners of the edge then",
                )
