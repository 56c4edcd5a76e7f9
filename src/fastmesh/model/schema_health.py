"""DestinationRule trafficPolicy.healthChecks: a field of our own (Istio has none), with the names and the
meaning of Envoy's core.v3.HealthCheck (API of Envoy 1.32). Only the shape: what becomes of it is
compile/health.py's."""

from __future__ import annotations

from typing import Any, Final

from fastmesh.model import formats as fmt
from fastmesh.model.fields import Duration, Int, List, Message, Str, later, req
from fastmesh.model.problems import Reporter

MAX_PATH: Final = 8192
MAX_SERVICE: Final = 256
MAX_RANGES: Final = 16
MAX_THRESHOLD: Final = 1_000_000
KINDS: Final = ("httpHealthCheck", "grpcHealthCheck", "tcpHealthCheck")


def _path(value: str, r: Reporter) -> None:
    if not value.startswith("/"):
        r.add("must begin with /")
    elif not value.isprintable() or " " in value or not value.isascii():
        r.add("must be printable ASCII without spaces", "percent-encode it")
    elif "#" in value:
        r.add("must have no fragment (#)")
    elif len(value) > MAX_PATH:
        r.add(f"is longer than {MAX_PATH} characters")


def _authority(value: str, r: Reporter) -> None:
    """A host, with a port or without."""
    host, colon, port = value.rpartition(":")
    if value.startswith("[") and value.endswith("]"):
        host, colon, port = value, "", ""
    if not colon or port.endswith("]"):
        host = value
    elif not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        r.add(f"{port or 'nothing'} is not a port")
        return
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    fmt.host_name(host, r)


def _service(value: str, r: Reporter) -> None:
    if len(value.encode()) > MAX_SERVICE:
        r.add(f"is longer than {MAX_SERVICE} bytes")


def _range(d: dict[str, Any], r: Reporter) -> None:
    if d["start"] >= d["end"]:
        r.add("holds no status: start is in it, end is not", f"end: {d['start'] + 1}", at=("end",))


def _rule(d: dict[str, Any], r: Reporter) -> None:
    given = [k for k in KINDS if k in d]
    if len(given) != 1:
        r.add(f"exactly one of {', '.join(KINDS)} is needed, not {' and '.join(given) or 'none'}")
    if d["timeout"] > d["interval"]:
        r.warn(
            "is longer than interval: a check that hangs puts the next one off, as in Envoy", at=("timeout",)
        )


HEALTH_CHECKS: Final = Message(
    "HealthCheck",
    {
        "interval": req(Duration()),
        "timeout": req(Duration()),
        "unhealthyThreshold": Int(1, MAX_THRESHOLD),
        "healthyThreshold": Int(1, MAX_THRESHOLD),
        "intervalJitterPercent": Int(0, 100),
        "altPort": Int(1, 65535),
        "httpHealthCheck": Message(
            "HttpHealthCheck",
            {
                "path": req(Str(_path)),
                "host": Str(_authority, empty=False),
                "expectedStatuses": List(
                    Message(
                        "Int64Range", {"start": req(Int(100, 599)), "end": req(Int(101, 600))}, rule=_range
                    ),
                    low=1,
                    high=MAX_RANGES,
                ),
                "method": later("GET"),
                "codecClientType": later("what the cluster speaks"),
                "requestHeadersToAdd": later(),
                "requestHeadersToRemove": later(),
                "retriableStatuses": later("every failure counts up to unhealthyThreshold"),
                "serviceNameMatcher": later(),
                "send": later(),
                "receive": later(),
                "responseBufferSize": later(),
            },
        ),
        "grpcHealthCheck": Message(
            "GrpcHealthCheck",
            {
                "serviceName": Str(_service),
                "authority": Str(_authority, empty=False),
                "initialMetadata": later(),
            },
        ),
        "tcpHealthCheck": Message(
            "TcpHealthCheck",
            {
                "send": later("a connection that can be made is what counts"),
                "receive": later("a connection that can be made is what counts"),
                "proxyProtocolConfig": later(),
            },
        ),
        "customHealthCheck": later(),
        "initialJitter": later("the first check decides at once"),
        "intervalJitter": later("give intervalJitterPercent"),
        "noTrafficInterval": later("traffic does not matter: interval"),
        "noTrafficHealthyInterval": later("traffic does not matter: interval"),
        "unhealthyInterval": later("interval"),
        "unhealthyEdgeInterval": later("interval"),
        "healthyEdgeInterval": later("interval"),
        "reuseConnection": later("each check has a connection of its own"),
        "alwaysLogHealthCheckFailures": later(),
        "alwaysLogHealthCheckSuccess": later(),
        "eventLogPath": later(),
        "eventLogger": later(),
        "eventService": later(),
        "tlsOptions": later("the cluster's TLS is used"),
        "transportSocketMatchCriteria": later(),
    },
    rule=_rule,
)
