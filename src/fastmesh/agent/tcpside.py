"""TCP of a sidecar's config: a listener for each local port that stands for a service, and the mesh's TLS
contexts for TCP.

Pure: state in, config out. What the routes are the control plane has compiled; which service a port stands
for was said on the command line.
"""

from __future__ import annotations

from fastmesh.supervisor.spec import tcp_listener_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from fastmesh.compile.fragment import Fragment
    from fastmesh.model.ir import Cluster, Listener, Route, RouteTable, TlsContext
    from fastmesh.supervisor.spec import SidecarSpec, TcpPort

CLIENT_TCP, SERVER_TCP = "identity-tcp", "identity-server-tcp"
# Agreed on by ALPN, so that bytes are never taken for HTTP nor HTTP for bytes: a proxy that serves the one
# refuses the other's handshake.
ALPN_TCP = ["fastmesh-tcp"]
DOMAIN = "cluster.local"  # as model/index, which an agent does not load


def ports(spec: SidecarSpec) -> list[TcpPort]:
    return spec.get("tcp", [])


def contexts(own: Iterable[TlsContext], clusters: Iterable[Cluster], serves: bool) -> list[TlsContext]:
    """The mesh's contexts for TCP, of those for HTTP: only what this sidecar needs, for each costs memory."""
    calls = any(cluster.get("tls", {}).get("context") == CLIENT_TCP for cluster in clusters)
    made: list[TlsContext] = []
    for context in own:
        if serves if context["server"] else calls:
            name = SERVER_TCP if context["server"] else CLIENT_TCP
            made.append({**context, "name": name, "alpn": ALPN_TCP})
    return made


def full_names(host: str, namespace: str) -> list[str]:
    """What a host of the command line can mean, as it is meant in a Host header."""
    host = host.lower()
    dots = host.count(".")
    more = (f"{host}.{namespace}.svc.{DOMAIN}", f"{host}.svc.{DOMAIN}", f"{host}.{DOMAIN}")
    return [host, more[dots]] if dots < len(more) else [host]


def outbound(
    spec: SidecarSpec,
    fragments: Mapping[str, Fragment],
    clusters: Mapping[str, Cluster],
    labels: dict[str, str],
) -> tuple[list[Listener], list[RouteTable]]:
    """A listener and its table for each local port. One whose service is not known has no route: NR."""
    by_host = {fragment["host"]: fragment for fragment in fragments.values()}
    listeners: list[Listener] = []
    tables: list[RouteTable] = []
    for address, port, host, number in ports(spec):
        name = tcp_listener_name(address, port)
        found = next((by_host[n] for n in full_names(host, spec["namespace"]) if n in by_host), None)
        routes = [] if found is None else routes_of(found, number, clusters)
        kept = [
            {k: v for k, v in route.items() if k != "source"}
            for route in routes
            if concerns(route.get("source", {}), spec["namespace"], labels)
        ]
        listeners.append(
            {
                "name": name,
                "kind": "outbound",
                "address": address,
                "port": port,
                "table": name,
                "protocol": "tcp",
            }
        )
        host_name = f"{host}:{number}" if number else host
        tables.append(
            {"name": name, "virtual_hosts": [{"name": host_name, "domains": ["*"], "routes": kept}]}  # type: ignore[typeddict-item]
        )
    return listeners, tables


def concerns(source: Any, namespace: str, labels: Mapping[str, str]) -> bool:
    """Whether a route is for clients of this namespace with these labels."""
    wanted: dict[str, str] = source.get("labels", {})
    return source.get("namespace", namespace) == namespace and all(
        labels.get(k) == v for k, v in wanted.items()
    )


def routes_of(fragment: Fragment, port: int, clusters: Mapping[str, Cluster]) -> list[Route]:
    """Of a service's port (0: its first)."""
    for each in fragment.get("tcp", []):
        if port in (0, each["port"]):
            return each["routes"]
    # While nobody serves it, nothing says that a service of the registry is TCP: there is no endpoint then,
    # rather than no route.
    for cluster in fragment["clusters"]:
        of, _, rest = cluster["name"].partition("|")
        number, _, rest = rest.partition("|")
        if of == "outbound" and rest == f"|{fragment['host']}" and port in (0, int(number)):
            empty = not clusters.get(cluster["name"], cluster)["endpoints"]
            return (
                [{"name": "default", "dests": [{"cluster": cluster["name"], "weight": 1}]}] if empty else []
            )
    return []
