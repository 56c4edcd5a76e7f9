"""A sidecar's config out of what the control plane distributes: listeners and inbound side are its own,
routes and clusters come from the services' fragments.

Pure: state in, config out; owns nothing. A fragment that cannot be used is left out and named, the others
serve.
"""

from __future__ import annotations

import os
from stat import S_ISREG

from fastmesh.agent import tcpside
from fastmesh.agent.dns import is_ip
from fastmesh.agent.intercepted import intercept
from fastmesh.compile.fragment import localize
from fastmesh.compile.locality import arrange
from fastmesh.supervisor.channel import read_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal

    from fastmesh.compile.fragment import Fragment
    from fastmesh.model.ir import Cluster, Config, Listener, Policy, Route, TlsContext, VirtualHost
    from fastmesh.supervisor.spec import SidecarSpec

    Fragments = dict[str, Fragment]  # by topic
    Protocol = Literal["http1", "h2", "as_client", "tcp"]

CLIENT, SERVER = "identity", "identity-server"
# Of the mesh's own contexts: the link between sidecars, then what else calls with a certificate of the mesh.
ALPN = ["fastmesh", "h2", "http/1.1"]
# As Istio's inbound clusters: a port that does not say what it speaks is spoken to as the client speaks.
APP_PROTOCOLS: dict[str, Protocol] = {
    "": "as_client",
    "HTTP": "http1",
    "HTTP2": "h2",
    "GRPC": "h2",
    "TCP": "tcp",
}
# Certificates that a DestinationRule names on this machine: a bundle of all public roots takes 220 KB.
MAX_PEM = 1 << 20


class Problem(Exception):
    """Why one fragment cannot be served."""


def read_pem(path: str) -> bytes:
    try:
        # Whoever writes configs chooses the path: a pipe or a device must not hold up the agent.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            pem = read_all(fd) if S_ISREG(found.st_mode) and found.st_size <= MAX_PEM else b""
        finally:
            os.close(fd)
    except OSError as error:
        raise Problem(f"{path}: {error.strerror}") from None
    if b"-----BEGIN" not in pem:
        raise Problem(f"{path}: not a PEM file")
    return pem


def identity_contexts(
    key: bytes, chain: bytes, roots: bytes, trust_domain: str, denied: Sequence[str] = ()
) -> list[TlsContext]:
    """The TLS contexts of the mesh: one to call with, one to be called at."""
    own: dict[str, Any] = {
        "cert": chain,
        "key": key,
        "ca": roots,
        "verify": True,
        "alpn": ALPN,
        "trust_domain": trust_domain,
        "denied": list(denied),
    }
    client: Any = {"name": CLIENT, "server": False, **own}
    server: Any = {"name": SERVER, "server": True, **own}
    return [client, server]


def listeners(spec: SidecarSpec, mtls: str, policies: list[Policy]) -> list[Listener]:
    inbound, outbound = spec["inbound"], spec["outbound"]
    made: Listener = {
        "name": "inbound",
        "kind": "inbound",
        "address": inbound[0],
        "port": inbound[1],
        "table": "inbound",
    }
    server = SERVER
    if serves_tcp(spec):
        made["protocol"] = "tcp"
        server = tcpside.SERVER_TCP
    if mtls == "permissive":
        made.update({"tls_mode": "permissive", "tls": [server]})
    elif mtls != "disable":
        made.update({"tls_mode": "strict", "tls": [server]})
    if policies:
        # a policy's `ports` are the workload's, as in Istio: the application's, not where the sidecar listens
        made["authz"] = {"policies": policies, "port": spec["app"][1]}
    return [
        made,
        {
            "name": "outbound",
            "kind": "outbound",
            "address": outbound[0],
            "port": outbound[1],
            "table": "outbound",
        },
    ]


def serves_tcp(spec: SidecarSpec) -> bool:
    """Its application speaks TCP: what arrives is bytes, whatever its client takes it for."""
    return APP_PROTOCOLS[spec["app_protocol"]] == "tcp"


def own_labels(spec: SidecarSpec) -> dict[str, str]:
    """As selectors see this workload (compile/world: Workload.all_labels)."""
    return {"app": spec["service"], **({"version": spec["version"]} if spec["version"] else {})}


def inbound_side(spec: SidecarSpec, limits: list[Route]) -> tuple[VirtualHost, Cluster]:
    """Whatever arrives is the application's; limits: for which of it (LocalRateLimit)."""
    host, port = spec["app"]
    name = f"inbound|{port}||"
    cluster: Cluster = {
        "name": name,
        "service": f"{spec['service']}.{spec['namespace']}.svc.cluster.local",
        "namespace": spec["namespace"],
        "endpoints": [{"address": host, "port": port}],
        "protocol": APP_PROTOCOLS[spec["app_protocol"]],
    }
    if not is_ip(host):
        cluster["dns"] = True
    dests: Route = {"dests": [{"cluster": name, "weight": 1}]}
    # of requests, which TCP does not have
    routes: list[Route] = [] if serves_tcp(spec) else [{**limit, "dests": dests["dests"]} for limit in limits]
    return {"name": name, "domains": ["*"], "routes": [*routes, dests]}, cluster


def reads_files(fragment: Fragment) -> bool:
    """Do contexts of this fragment come from files of this machine?"""
    return any(key.endswith("_file") for context in fragment["tls"] for key in context)


def as_served(fragment: Fragment, config: Config) -> Fragment:
    """The fragment with what was read of its files for a config, whatever becomes of the files."""
    read: dict[str, Any] = {context["name"]: context for context in config["tls"]}
    return {**fragment, "tls": [read.get(context["name"], context) for context in fragment["tls"]]}


def fragment_contexts(fragment: Fragment) -> list[TlsContext]:
    """The contexts of DestinationRules, their files read; Problem."""
    made = []
    for context in fragment["tls"]:
        kept = {key: value for key, value in context.items() if not key.endswith("_file")}
        for part in ("cert", "key", "ca"):
            if path := context.get(f"{part}_file"):
                kept[part] = read_pem(path)
        made.append(kept)
    return made  # type: ignore[return-value]


def outbound_side(
    fragments: Fragments, namespace: str, labels: dict[str, str], problems: dict[str, str]
) -> tuple[list[VirtualHost], dict[str, Cluster], dict[str, TlsContext]]:
    """Virtual hosts, clusters and contexts of all fragments. Where two bring the same cluster, the one of the
    service itself counts: the other may be older. A domain belongs to the first that has it."""
    hosts: list[VirtualHost] = []
    clusters: dict[str, Cluster] = {}
    contexts: dict[str, TlsContext] = {}
    taken: set[str] = set()
    for topic in sorted(fragments):
        fragment = fragments[topic]
        try:
            own = fragment_contexts(fragment)
        except Problem as problem:
            problems[topic] = str(problem)
            continue
        contexts.update({context["name"]: context for context in own})
        for cluster in fragment["clusters"]:
            if cluster.get("service") == fragment["host"] or cluster["name"] not in clusters:
                clusters[cluster["name"]] = cluster
        for host in localize(fragment, namespace, labels):
            domains = [domain for domain in host["domains"] if domain not in taken]
            if domains:
                taken.update(domains)
                hosts.append({**host, "domains": domains})
    return hosts, clusters, contexts


def assemble(
    node_id: str,
    spec: SidecarSpec,
    mtls: str,
    fragments: Fragments,
    identity: list[TlsContext],
    limits: list[Route] | None = None,
    policies: list[Policy] | None = None,
) -> tuple[Config, dict[str, str]]:
    """(the config, topic -> why it is left out)."""
    problems: dict[str, str] = {}
    hosts, clusters, contexts = outbound_side(fragments, spec["namespace"], own_labels(spec), problems)
    inbound, app = inbound_side(spec, limits or [])
    tcp_listeners, tcp_tables = tcpside.outbound(spec, fragments, clusters, own_labels(spec))
    tcp_contexts = tcpside.contexts(identity, clusters.values(), serves_tcp(spec))
    config: Config = {
        "node_id": node_id,
        "cluster": spec["service"],
        "listeners": [*listeners(spec, mtls, policies or []), *tcp_listeners],
        "tables": [
            {"name": "inbound", "virtual_hosts": [inbound]},
            {"name": "outbound", "virtual_hosts": hosts},
            *tcp_tables,
        ],
        "clusters": [
            app,
            *(arrange(clusters[name], spec["locality"], own_labels(spec)) for name in sorted(clusters)),
        ],
        "tls": [*identity, *tcp_contexts, *(contexts[name] for name in sorted(contexts))],
    }
    if spec.get("intercept"):
        intercept(config, spec, (f for t, f in fragments.items() if t not in problems), own_labels(spec))
    return config, problems
