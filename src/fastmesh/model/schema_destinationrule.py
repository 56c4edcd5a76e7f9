"""DestinationRule, field for field (networking.istio.io; API of Istio 1.31). Only the shape: how objects fit
together is validate.py."""

from __future__ import annotations

from typing import Any, Final

from fastmesh.model import formats as fmt
from fastmesh.model.fields import Bool, Duration, Enum, Int, List, Map, Message, Number, Str, later, req
from fastmesh.model.problems import Reporter
from fastmesh.model.schema_health import HEALTH_CHECKS
from fastmesh.model.schema_loadbalancer import LOAD_BALANCER
from fastmesh.model.schema_locality import unseen_failover
from fastmesh.model.schema_outlier import OUTLIER_DETECTION
from fastmesh.model.schema_virtualservice import EXPORT_TO, PORT_SELECTOR

MAX_COUNT: Final = 2**31 - 1
MAX_REQUESTS_PER_CONNECTION: Final = 2**29

LABELS: Final = Map(Str(fmt.label_value), fmt.label_key)

MAX_KEEPALIVE_MS: Final = 32_767_000
"""The system's limit for both times, in seconds 32767."""

_KEEPALIVE: Final = Message(
    "TcpKeepalive",
    {
        "probes": Int(0, 127),
        "time": Duration(high=MAX_KEEPALIVE_MS),
        "interval": Duration(high=MAX_KEEPALIVE_MS),
    },
)

_TCP: Final = Message(
    "TCPSettings",
    {
        "maxConnections": Int(1, MAX_COUNT),
        "connectTimeout": Duration(),
        "tcpKeepalive": _KEEPALIVE,
        "maxConnectionDuration": Duration(),
        "idleTimeout": Duration(zero=True),
    },
)


def _http(d: dict[str, Any], r: Reporter) -> None:
    if d.get("useClientProtocol") and d.get("h2UpgradePolicy", "DEFAULT") != "DEFAULT":
        r.warn("has no effect beside useClientProtocol, as in Istio", "remove one", at=("h2UpgradePolicy",))


_HTTP: Final = Message(
    "HTTPSettings",
    {
        "http1MaxPendingRequests": Int(0, MAX_COUNT),
        "http2MaxRequests": Int(0, MAX_COUNT),
        "maxRequestsPerConnection": Int(0, MAX_REQUESTS_PER_CONNECTION),
        "maxRetries": Int(0, MAX_COUNT),
        "idleTimeout": Duration(),
        "h2UpgradePolicy": Enum(["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"]),
        "useClientProtocol": Bool(),
        "maxConcurrentStreams": Int(0, MAX_COUNT),
        "http2KeepAlive": later(),
    },
    rule=_http,
)

CONNECTION_POOL: Final = Message("ConnectionPoolSettings", {"tcp": _TCP, "http": _HTTP})


def _client_tls(d: dict[str, Any], r: Reporter) -> None:
    mode = d.get("mode", "DISABLE")
    own = [k for k in ("clientCertificate", "privateKey") if d.get(k)]
    if mode == "MUTUAL":
        for k in ("clientCertificate", "privateKey"):
            if not d.get(k):
                r.add("is required by mode MUTUAL", at=(k,))
    elif own:
        r.add(f"is possible with mode MUTUAL only, not with {mode}", at=(own[0],))
    for k in ("caCertificates", "subjectAltNames", "sni", "insecureSkipVerify"):
        if mode in ("DISABLE", "ISTIO_MUTUAL") and d.get(k):
            what = (
                "the mesh decides it with mode ISTIO_MUTUAL"
                if mode == "ISTIO_MUTUAL"
                else "has no meaning with mode DISABLE"
            )
            r.add(what, at=(k,))
    if d.get("insecureSkipVerify"):
        for k in ("caCertificates", "subjectAltNames"):
            if d.get(k):
                r.add("contradicts insecureSkipVerify", at=(k,))
        r.warn("the server's certificate is not verified: anyone can pose as it", at=("insecureSkipVerify",))


CLIENT_TLS: Final = Message(
    "ClientTLSSettings",
    {
        "mode": Enum(["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]),
        "clientCertificate": Str(fmt.locale_free_path),
        "privateKey": Str(fmt.locale_free_path),
        "caCertificates": Str(fmt.locale_free_path),
        "credentialName": later("give files: clientCertificate, privateKey, caCertificates"),
        "subjectAltNames": List(Str(empty=False)),
        "sni": Str(fmt.host_name),
        "insecureSkipVerify": Bool(),
        "caCrl": later(),
    },
    rule=_client_tls,
)

_COMMON: Final[dict[str, Any]] = {
    "loadBalancer": LOAD_BALANCER,
    "connectionPool": CONNECTION_POOL,
    "outlierDetection": OUTLIER_DETECTION,
    "healthChecks": HEALTH_CHECKS,
    "tls": CLIENT_TLS,
}


def _passthrough(d: dict[str, Any], r: Reporter) -> None:
    if d.get("loadBalancer", {}).get("simple") == "PASSTHROUGH":
        for k in ("outlierDetection", "healthChecks"):
            if k in d:
                r.add("contradicts loadBalancer PASSTHROUGH, which chooses among no endpoints", at=(k,))


PORT_TRAFFIC_POLICY: Final = Message(
    "PortTrafficPolicy", {"port": req(PORT_SELECTOR), **_COMMON}, rule=_passthrough
)


def _traffic_policy(d: dict[str, Any], r: Reporter) -> None:
    _passthrough(d, r)
    seen: set[int] = set()
    for i, p in enumerate(d.get("portLevelSettings", ())):
        number = p["port"]["number"]
        if number in seen:
            r.add(f"port {number} is given twice", at=("portLevelSettings", i, "port"))
        seen.add(number)


RETRY_BUDGET: Final = Message(
    "TrafficPolicyRetryBudget",
    {
        "percent": Number(0, 100),
        "minRetryConcurrency": Int(0, MAX_COUNT),
        "budgetInterval": later("the requests in flight are what counts"),
    },
)

TRAFFIC_POLICY: Final = Message(
    "TrafficPolicy",
    {
        **_COMMON,
        "portLevelSettings": List(PORT_TRAFFIC_POLICY, high=4096),
        "tunnel": later(),
        "proxyProtocol": later(),
        "retryBudget": RETRY_BUDGET,
    },
    rule=_traffic_policy,
)

SUBSET: Final = Message(
    "Subset",
    {
        "name": req(Str(fmt.subset_name, empty=False)),
        "labels": LABELS,
        "trafficPolicy": TRAFFIC_POLICY,
    },
)


def _destination_rule(d: dict[str, Any], r: Reporter) -> None:
    seen: set[str] = set()
    for i, subset in enumerate(d.get("subsets", ())):
        if subset["name"] in seen:
            r.add(f"the subset {subset['name']} is defined twice", at=("subsets", i, "name"))
        seen.add(subset["name"])
    unseen_failover(d, r)


DESTINATION_RULE: Final = Message(
    "DestinationRule",
    {
        "host": req(Str(fmt.wildcard_host, empty=False)),
        "trafficPolicy": TRAFFIC_POLICY,
        "subsets": List(SUBSET),
        "exportTo": EXPORT_TO,
        "workloadSelector": later("a rule applies to every client"),
    },
    rule=_destination_rule,
)
