"""Destinations -> IR clusters (compile): a ServiceEntry's endpoints under the DestinationRule of its host.

Knows nothing of routes. TLS files are not read here: a context names its files, and who compiles a file-based
config reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastmesh.compile.health import watch
from fastmesh.compile.lbpolicy import balance
from fastmesh.compile.locality import locate, settle
from fastmesh.compile.outlier import detect
from fastmesh.model.index import Index, Rule, Service, effective_policy, labels_match
from fastmesh.model.protocols import HTTP2, OPAQUE
from fastmesh.model.schema import Resource

if TYPE_CHECKING:
    from typing import Literal

    from fastmesh.model import ir

    Protocol = Literal["http1", "h2", "as_client"]


def cluster_name(port: int, subset: str, host: str) -> str:
    """Istio's: outbound|9080|v1|reviews.default.svc.cluster.local."""
    return f"outbound|{port}|{subset}|{host}"


def bracketed(host: str) -> str:
    """An IPv6 address as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def subset_labels(rule: Rule | None, subset: str) -> dict[str, str]:
    found = rule.subset(subset) if rule is not None and subset else None
    labels: dict[str, str] = found[0].spec["subsets"][found[1]].get("labels", {}) if found is not None else {}
    return labels


def declared_protocol(index: Index, host: str, port: int) -> str:
    """What a ServiceEntry says that a port speaks (protocols.py); "" when nothing says it."""
    service = index.service(host)
    own = service.ports.get(port) if service is not None else None
    return own.protocol if own is not None else ""


def upstream_protocol(http: dict[str, Any], declared: str, unsaid: Protocol) -> Protocol:
    """The protocol towards endpoints without TLS, by Istio's rules: the client's where the rule wants that;
    HTTP/2 by the port or by the rule's upgrade; `unsaid` for a port that does not tell. DO_NOT_UPGRADE takes
    back neither: it is for HTTP ports under a mesh-wide upgrade, which there is not."""
    if http.get("useClientProtocol"):
        return "as_client"
    if declared in HTTP2 or http.get("h2UpgradePolicy") == "UPGRADE":
        return "h2"
    return "http1" if declared else unsaid


def offered(index: Index, cluster: ir.Cluster, host: str, port: int) -> list[str]:
    """The ALPN list of TLS that a DestinationRule originates. A port declared as HTTP/2 leaves the server no
    choice, as in Istio. An upgrade does (Istio: HTTP/2 only): it is a wish, and a server may not know HTTP/2.
    So does the client's protocol: a list belongs to a context, not to a request."""
    protocol = cluster.get("protocol", "http1")
    if protocol == "tcp":
        return []  # whatever it is
    if protocol == "http1":
        return ["http/1.1"]
    declared = declared_protocol(index, host, port) in HTTP2
    return ["h2"] if protocol == "h2" and declared else ["h2", "http/1.1"]


def base_cluster(
    index: Index,
    host: str,
    port: int,
    subset: str,
    namespace: str,
    unsaid: Protocol = "http1",
    *,
    opaque: bool = False,
) -> tuple[ir.Cluster, dict[str, Any] | None]:
    """A cluster without endpoints, with the settings of its DestinationRule; and the rule's tls block, if
    there is one. `unsaid`: see upstream_protocol. `opaque`: it is for TCP sessions, as it is where its port
    is declared so."""
    policy = effective_policy(index.rule(host), subset, port)
    out: ir.Cluster = {"name": cluster_name(port, subset, host), "service": host, "endpoints": []}
    if namespace:
        out["namespace"] = namespace
    balance(out, policy.get("loadBalancer", {}))
    detect(out, policy.get("outlierDetection"))
    watch(out, policy.get("healthChecks"))
    settle(out, policy)
    pool = policy.get("connectionPool", {})
    tcp, http = pool.get("tcp", {}), pool.get("http", {})
    if "maxConnectionDuration" in tcp:
        out["max_age_ms"] = tcp["maxConnectionDuration"]
    if "tcpKeepalive" in tcp:
        asked = tcp["tcpKeepalive"]
        # whole seconds, as the system counts them
        out["keepalive"] = {
            "time_s": -(-asked.get("time", 0) // 1000),
            "interval_s": -(-asked.get("interval", 0) // 1000),
            "probes": asked.get("probes", 0),
        }
    if "connectTimeout" in tcp:
        out["connect_timeout_ms"] = tcp["connectTimeout"]
    if "maxConnections" in tcp:
        out["max_connections"] = tcp["maxConnections"]
    if opaque or declared_protocol(index, host, port) in OPAQUE:
        out["protocol"] = "tcp"
        if "idleTimeout" in tcp:
            out["idle_timeout_ms"] = tcp["idleTimeout"]
        return out, policy.get("tls")
    if "idleTimeout" in http:
        out["idle_timeout_ms"] = http["idleTimeout"]
    if http.get("maxRequestsPerConnection"):
        out["max_requests_per_connection"] = http["maxRequestsPerConnection"]
    if http.get("maxConcurrentStreams"):
        out["max_streams"] = http["maxConcurrentStreams"]
    for field, key in (
        ("http1MaxPendingRequests", "max_pending"),
        ("http2MaxRequests", "max_requests"),
        ("maxRetries", "max_retries"),
    ):
        if http.get(field):
            out[key] = http[field]  # type: ignore[literal-required]
    budget = policy.get("retryBudget")
    if budget is not None:
        out["budget_ppm"] = round(budget.get("percent", 20) * 10_000)
        out["budget_least"] = budget.get("minRetryConcurrency", 3)
    protocol = upstream_protocol(http, declared_protocol(index, host, port), unsaid)
    if protocol != "http1":
        out["protocol"] = protocol
    return out, policy.get("tls")


def add_entry_endpoints(
    out: ir.Cluster, index: Index, service: Service, host: str, port: int, labels: dict[str, str]
) -> None:
    """The endpoints that ServiceEntries give for a port, filtered by a subset's labels."""
    for entry in service.entries:
        own = entry_port(entry, port)
        for member, namespace, name in entry_members(index, entry, host) if own is not None else ():
            if own is not None and labels_match(labels, member.get("labels", {})):
                add_endpoint(out, member_endpoint(out, member, own, namespace, name))


def entry_port(entry: Resource, port: int) -> dict[str, Any] | None:
    found: dict[str, Any] | None = next((p for p in entry.spec["ports"] if p["number"] == port), None)
    return found


def add_endpoint(out: ir.Cluster, endpoint: ir.Endpoint) -> None:
    """An address is one endpoint, whoever names it: the first counts, but TLS wins over plain text."""
    for known in out["endpoints"]:
        if (known["address"], known["port"]) == (endpoint["address"], endpoint["port"]):
            if endpoint.get("tls"):
                known["tls"] = True
            return
    out["endpoints"].append(endpoint)


def member_endpoint(
    cluster: ir.Cluster, member: dict[str, Any], own: dict[str, Any], namespace: str, name: str
) -> ir.Endpoint:
    """An endpoint of a ServiceEntry at one of its ports: the endpoint's own number for it, else its
    targetPort."""
    number = member.get("ports", {}).get(own["name"], own.get("targetPort", own["number"]))
    out: ir.Endpoint = {"address": member["address"], "port": number}
    if member.get("weight", 1) > 1:
        out["weight"] = member["weight"]
    if name:
        out["workload"] = name
        out["namespace"] = namespace
    if member.get("labels", {}).get("version"):
        out["version"] = member["labels"]["version"]
    locate(cluster, out, member.get("locality", ""), member.get("labels", {}))
    return out


def entry_members(index: Index, entry: Resource, host: str) -> list[tuple[dict[str, Any], str, str]]:
    """(endpoint, namespace, workload name): a ServiceEntry's own endpoints, else WorkloadEntries that it
    selects, else its host."""
    spec = entry.spec
    if "endpoints" in spec:
        return [(e, entry.namespace, "") for e in spec["endpoints"]]
    if "workloadSelector" in spec:
        wanted = spec["workloadSelector"]["labels"]
        return [
            ({**w.spec, "labels": workload_labels(w)}, w.namespace, w.name)
            for w in index.kind("WorkloadEntry")
            if w.namespace == entry.namespace and labels_match(wanted, workload_labels(w))
        ]
    return (
        [({"address": host}, entry.namespace, "")] if spec["resolution"] == "DNS" and "*" not in host else []
    )


def workload_labels(w: Resource) -> dict[str, str]:
    """A WorkloadEntry's labels: those of its spec win over its metadata's."""
    return {**w.labels, **w.spec.get("labels", {})}


def is_dns(service: Service) -> bool:
    return any(e.spec["resolution"] == "DNS" for e in service.entries)


def origination(
    tls: dict[str, Any], host: str, service: Service | None, name: str, alpn: list[str]
) -> tuple[ir.ClusterTls, dict[str, Any]]:
    """A DestinationRule's tls of mode SIMPLE or MUTUAL: the cluster's part, and the context with file names
    (cert_file, key_file, ca_file).

    The server is checked as Istio does: by subjectAltNames, else those of the ServiceEntry, else by the name
    it is asked for."""
    verify = not tls.get("insecureSkipVerify", False)
    sni = tls.get("sni") or (host if "*" not in host else "")
    context: dict[str, Any] = {"name": name, "server": False, "verify": verify, "alpn": alpn}
    for field, key in (
        ("clientCertificate", "cert_file"),
        ("privateKey", "key_file"),
        ("caCertificates", "ca_file"),
    ):
        if tls.get(field):
            context[key] = tls[field]
    out: ir.ClusterTls = {"context": name}
    if sni:
        out["sni"] = sni
    if verify:
        given = tls.get("subjectAltNames") or [
            s for e in (service.entries if service else ()) for s in e.spec.get("subjectAltNames", ())
        ]
        sans = given or ([sni] if sni else [])
        if sans:
            out["sans"] = list(dict.fromkeys(sans))
            out["verify_san"] = True
    return out, context
