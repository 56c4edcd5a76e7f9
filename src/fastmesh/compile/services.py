"""The control plane's compiler (compile): what sidecars need to reach one service -> a Fragment
(fragment.py).

`compile_service(world, host)` for one host; `compile_services(world, touched)` for all that a change of some
services alters. Knows neither listeners nor topics; imports no YAML and nothing of the data plane.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from fastmesh.compile.clusters import (
    add_endpoint,
    base_cluster,
    bracketed,
    cluster_name,
    entry_members,
    entry_port,
    is_dns,
    member_endpoint,
    offered,
    origination,
    subset_labels,
)
from fastmesh.compile.fragment import PROTOCOL_LABEL
from fastmesh.compile.l4 import l4_routes, takes_every_session
from fastmesh.compile.locality import locate
from fastmesh.compile.routes import MESH, compile_routes, default_route, source_of
from fastmesh.compile.world import DEFAULT_PORT, Workload, World, effective_mtls
from fastmesh.model.formats import is_ip
from fastmesh.model.index import effective_policy, full_name, labels_match, namespace_of
from fastmesh.model.protocols import OPAQUE
from fastmesh.model.schema import Resource

if TYPE_CHECKING:
    from fastmesh.compile.fragment import Fragment, FragmentHost, FragmentPort
    from fastmesh.model import ir

AUTO: Final = "AUTO"
"""The TLS mode without a DestinationRule: mTLS to whoever has a sidecar that speaks it."""
IDENTITY: Final = "identity"
"""The name of the TLS context that is the sidecar's own certificate; its agent fills it in."""
IDENTITY_TCP: Final = "identity-tcp"
"""The same for TCP."""
TLS_MODE_LABEL: Final = "security.istio.io/tlsMode"
"""Istio's label of an endpoint that speaks mTLS without being in the registry: value "istio"."""


def compile_service(world: World, host: str) -> Fragment | None:
    """Routes and clusters of a host (full name, or wildcard, as world.resolve gives it); None when it is not
    known."""
    if not world.known(host):
        return None
    return _Service(world, host).compile()


def compile_services(world: World, touched: Iterable[str] | None = None) -> dict[str, Fragment | None]:
    """The fragments of all hosts, or of those that a change of the `touched` services alters: a fragment also
    holds the clusters of the other services that its routes lead to. None: the host is no longer known."""
    if touched is None:
        return {host: compile_service(world, host) for host in world.hosts()}
    hosts = set(touched)
    return {host: compile_service(world, host) for host in sorted(hosts | world.dependents(hosts))}


def pass_through(out: ir.Cluster, *, secure: bool) -> None:
    """PASSTHROUGH: the address that the client called is the one endpoint. Whether a sidecar is there is not
    known, so that TLS is for a DestinationRule to say, as in Istio."""
    for key in ("outlier", "health", "locality", "dns"):
        out.pop(key, None)  # type: ignore[misc]
    out["endpoints"] = [{"address": "0.0.0.0", "port": 1, **({"tls": True} if secure else {})}]  # type: ignore[typeddict-item]


def called_by_address(w: Workload) -> bool:
    """Every host has an address of loopback of its own."""
    return bool(w.app_port) and is_ip(w.address) and not ip_address(w.address).is_loopback


class _Service:
    def __init__(self, world: World, host: str) -> None:
        self.world = world
        self.host = host
        self.clusters: dict[str, ir.Cluster] = {}
        self.tls: dict[str, dict[str, Any]] = {}

    def compile(self) -> Fragment:
        hosts = self.virtual_hosts()
        tcp: list[FragmentPort] = [
            {"port": port, "routes": self.tcp_routes(port)} for port in self.opaque_ports()
        ]
        for port in self.ports(self.host):
            for subset in ["", *self.subsets()]:
                self.cluster(self.host, port, subset)
        needs = {c.get("service", "") for c in self.clusters.values()} - {self.host}
        clusters = sorted(self.clusters.values(), key=lambda c: c["name"])
        made: Fragment = {
            "host": self.host,
            "virtual_hosts": hosts,
            "clusters": clusters,
            "tls": [self.tls[n] for n in sorted(self.tls)],
            "needs": sorted(needs),
        }
        if tcp:
            made["tcp"] = tcp
            service = self.world.index.services.get(self.host)
            found = [a for e in (service.entries if service else ()) for a in e.spec.get("addresses", ())]
            if found:
                made["addresses"] = found
        instances = [
            f"{bracketed(w.address)}:{w.app_port}"
            for w in self.world.workloads.get(self.host, ())
            if called_by_address(w)
        ]
        if instances:
            made["instances"] = sorted(dict.fromkeys(instances))
        return made

    def subsets(self) -> list[str]:
        rule = self.world.index.rule(self.host)
        return rule.subset_names() if rule is not None else []

    def ports(self, host: str) -> list[int]:
        """A service of the registry has one application behind it, whatever its workloads' ports: one port,
        the default."""
        if host in self.world.registry:
            return self.world.registry[host][:1]
        service = self.world.index.service(host)
        return (
            [p for p, spec in service.ports.items() if spec.protocol != "HTTPS" or self.originates(host, p)]
            if service
            else []
        )

    def originates(self, host: str, port: int) -> bool:
        """Whether a DestinationRule makes TLS of plain HTTP; else an HTTPS port is the application's own to
        speak TLS to."""
        mode = effective_policy(self.world.index.rule(host), "", port).get("tls", {}).get("mode")
        return mode not in (None, "DISABLE")

    def opaque(self, host: str, port: int) -> bool:
        """Whether a port carries TCP: it is declared so, or as HTTPS, which is the application's to speak.
        Of a service in the registry its workloads say it."""
        if host in self.world.registry:
            return any(w.labels.get(PROTOCOL_LABEL) == "TCP" for w in self.world.workloads.get(host, ()))
        service = self.world.index.service(host)
        protocol = service.ports[port].protocol if service is not None and port in service.ports else ""
        return protocol in OPAQUE or (protocol == "HTTPS" and not self.originates(host, port))

    def opaque_ports(self) -> list[int]:
        if self.host in self.world.registry:
            return [p for p in self.world.registry[self.host] if self.opaque(self.host, p)]
        service = self.world.index.services.get(self.host)
        return [p for p in service.ports if self.opaque(self.host, p)] if service is not None else []

    def tcp_routes(self, port: int) -> list[ir.Route]:
        """By the VirtualService's tcp rules; without one that is for this port, to the service itself."""
        vs = self.world.mesh_rule(self.host)
        found = l4_routes(vs, "tcp", MESH, port, self.resolve) if vs is not None else []
        if found:
            return sorted((route for _, route in found), key=takes_every_session)
        cluster = self.resolve({"host": self.host, "port": {"number": port}}, "", port)
        return [{"name": "default", "dests": [{"cluster": cluster, "weight": 1}]}]

    # -- virtual hosts ---------------------------------------------------------------------------------------

    def virtual_hosts(self) -> list[FragmentHost]:
        """One per set of ports that are routed alike; bare names go with the default port."""
        registered = self.host in self.world.registry
        ports = self.world.registry[self.host] if registered else self.ports(self.host)
        service = self.world.index.services.get(self.host)
        declared, ports = ports, [p for p in ports if not self.opaque(self.host, p)]
        if not ports:
            if service is not None or declared:
                return []  # TCP and HTTPS only: not for an HTTP proxy to route
            ports = [DEFAULT_PORT]
        bare = DEFAULT_PORT if DEFAULT_PORT in ports else ports[0]
        if registered:
            bare = ports[0]
        alike: list[tuple[list[ir.Route], str, list[int]]] = []
        for port in ports:
            routes, places = self.routes(port)
            same = next((g for g in alike if g[:2] == (routes, places)), None)
            if same is None:
                alike.append((routes, places, [port]))
            else:
                same[2].append(port)
        out: list[FragmentHost] = []
        vs = self.world.mesh_rule(self.host)
        for routes, places, of_ports in alike:
            names, local = self.names()
            made = self.named(names, local, of_ports, bare, routes)
            if vs is not None and self.world.index.by_key.get(vs.key) is vs:  # without rules of a delegate
                made.update({"source": source_of(vs), "places": places})
            out.append(made)
        return out

    def named(
        self, names: list[str], local: list[str], ports: list[int], bare: int, routes: list[ir.Route]
    ) -> FragmentHost:
        def with_ports(hosts: list[str]) -> list[str]:
            plain = hosts if bare in ports else []
            return [*plain, *(f"{bracketed(h)}:{p}" for h in hosts for p in ports)]

        vhost: FragmentHost = {
            "name": f"{self.host}:{ports[0]}",
            "domains": with_ports(names),
            "routes": routes,
        }
        if local:
            vhost["local_domains"] = with_ports(local)
            vhost["namespace"] = namespace_of(self.host)
        return vhost

    def names(self) -> tuple[list[str], list[str]]:
        """(names for every client, names for clients of the service's namespace)."""
        namespace = namespace_of(self.host)
        short = self.host.partition(".")[0]
        if namespace and self.host == full_name(short, namespace):
            everyone, local = [self.host, f"{short}.{namespace}.svc", f"{short}.{namespace}"], [short]
        else:
            everyone, local = [self.host], []
        service = self.world.index.services.get(self.host)
        for entry in service.entries if service else ():
            everyone += entry.spec.get("addresses", ())
        # a name that is a host of its own belongs to that host
        return (
            [n for n in dict.fromkeys(everyone) if n == self.host or not self.world.known(n)],
            [n for n in local if not self.world.known(n)],
        )

    def routes(self, port: int) -> tuple[list[ir.Route], str]:
        """And their places in the VirtualService that they come from."""
        vs = self.world.mesh_rule(self.host)
        if vs is None:
            return [default_route(self.resolve({"host": self.host}, "", port))], ""
        places: list[str] = []
        return compile_routes(vs, MESH, port, self.resolve, places), " ".join(places)

    def resolve(self, destination: dict[str, Any], namespace: str, listener_port: int) -> str:
        host = (
            self.world.index.canonical(destination["host"], namespace) if namespace else destination["host"]
        )
        port = destination.get("port", {}).get("number")
        if port is None:
            if host in self.world.registry:
                port = self.world.registry[host][0]
            else:
                service = self.world.index.service(host)
                port = next(iter(service.ports)) if service and len(service.ports) == 1 else listener_port
        return self.cluster(host, port, destination.get("subset", ""))

    # -- clusters --------------------------------------------------------------------------------------------

    def cluster(self, host: str, port: int, subset: str) -> str:
        """The name of a destination's cluster; the cluster is made unless nothing is known of the host:
        requests get 503 then."""
        name = cluster_name(port, subset, host)
        service = self.world.index.service(host)
        if name in self.clusters or (host not in self.world.registry and service is None):
            return name
        rule = self.world.index.rule(host)
        if subset and (rule is None or rule.subset(subset) is None):
            return name
        namespace = (
            namespace_of(host) if host in self.world.registry else service.namespace if service else ""
        )
        opaque = self.opaque(host, port)
        # A sidecar sees what its application speaks, and the sidecar at the other end takes both versions.
        out, tls = base_cluster(self.world.index, host, port, subset, namespace, "as_client", opaque=opaque)
        labels = subset_labels(rule, subset)
        # without a rule the mesh decides; a tls block without mode means DISABLE, as in Istio
        mode = AUTO if tls is None else tls.get("mode", "DISABLE")
        identities: set[str] = set()
        for w in self.world.workloads.get(host, ()):
            identities |= self.add_workload(out, w, labels, mode)
        if service is not None:
            for entry in service.entries:
                identities |= self.add_entry(out, entry, host, port, labels, mode)
                if mode in (AUTO, "ISTIO_MUTUAL"):
                    identities.update(entry.spec.get("subjectAltNames", ()))
            if is_dns(service) and any(not is_ip(e["address"]) for e in out["endpoints"]):
                out["dns"] = True
        if out.get("original_dst"):
            pass_through(out, secure=mode not in (AUTO, "DISABLE"))
        if tls is not None and mode in ("SIMPLE", "MUTUAL"):
            context = f"client/{host}" + (f"/{subset}" if subset else "") + f":{port}"
            alpn = offered(self.world.index, out, host, port)
            out["tls"], self.tls[context] = origination(tls, host, service, context, alpn)
        elif mode == "ISTIO_MUTUAL" or any(e.get("tls") for e in out["endpoints"]):
            out["tls"] = {
                "context": IDENTITY_TCP if opaque else IDENTITY,
                "sni": f"outbound_.{port}_.{subset}_.{host}",
                "sans": sorted(i for i in identities if i),
                "verify_san": True,
            }
        self.clusters[name] = out
        return name

    def dials_tls(self, mode: str, auto: bool) -> bool:
        return auto if mode == AUTO else mode != "DISABLE"

    def add_workload(self, out: ir.Cluster, w: Workload, labels: dict[str, str], mode: str) -> set[str]:
        """A sidecar's inbound listener as endpoint; returns its identity, also when the subset leaves it out:
        a service's workloads vouch for the service."""
        if labels_match(labels, w.all_labels):
            auto = (
                bool(w.identity)
                and effective_mtls(self.world, w.namespace, w.all_labels, w.app_port) != "disable"
            )
            endpoint: ir.Endpoint = {
                "address": w.address,
                "port": w.port,
                "workload": w.name,
                "namespace": w.namespace,
            }
            if self.dials_tls(mode, auto):
                endpoint["tls"] = True
            if w.labels.get("version"):
                endpoint["version"] = w.labels["version"]
            locate(out, endpoint, "", w.all_labels)
            add_endpoint(out, endpoint)
        return {w.identity}

    def add_entry(
        self, out: ir.Cluster, entry: Resource, host: str, port: int, labels: dict[str, str], mode: str
    ) -> set[str]:
        """The endpoints of a ServiceEntry: its own, WorkloadEntries and workloads that it selects."""
        identities: set[str] = set()
        own = entry_port(entry, port)
        if own is None:
            return identities
        for member, namespace, name in entry_members(self.world.index, entry, host):
            has = member.get("labels", {})
            auto = has.get(TLS_MODE_LABEL) == "istio" and bool(member.get("serviceAccount"))
            if member.get("serviceAccount"):
                identities.add(
                    f"spiffe://{self.world.trust_domain}/ns/{namespace}/sa/{member['serviceAccount']}"
                )
            if not labels_match(labels, has):
                continue
            endpoint = member_endpoint(out, member, own, namespace, name)
            if self.dials_tls(mode, auto):
                endpoint["tls"] = True
            add_endpoint(out, endpoint)
        wanted = entry.spec.get("workloadSelector", {}).get("labels")
        if wanted is not None:
            for w in self.selected(entry.namespace, wanted):
                identities |= self.add_workload(out, w, labels, mode)
        return identities

    def selected(self, namespace: str, wanted: dict[str, str]) -> list[Workload]:
        return [
            w
            for of_host in self.world.workloads.values()
            for w in of_host
            if w.namespace == namespace and labels_match(wanted, w.all_labels)
        ]


__all__ = [
    "IDENTITY",
    "Workload",
    "World",
    "compile_service",
    "compile_services",
    "effective_mtls",
]
