"""Active health checks: what a DestinationRule says -> a cluster's dict form, and that -> a snapshot
(compile)."""

from __future__ import annotations

TYPE_CHECKING = False  # of typing: see tables
if TYPE_CHECKING:
    from typing import Any

    from fastmesh._core.shm.pack import Packer
    from fastmesh.model import ir

KINDS = {"http": 1, "grpc": 2, "tcp": 3}  # HK_* of shm/snapshot.pxd
UNHEALTHY, HEALTHY, JITTER_PERCENT = 3, 2, 10
MAX_RANGES = 16
MAX_SERVICE = 256  # SNAP_MAX_NAME
MAX_AUTHORITY = 259  # a name and a port
MAX_THRESHOLD = 1_000_000


def watch(out: ir.Cluster, said: dict[str, Any] | None) -> None:
    """The part of a cluster that healthChecks make; without them no endpoint is checked."""
    if said is None:
        return
    made: ir.HealthCheck = {
        "kind": "tcp",
        "interval_ms": said["interval"],
        "timeout_ms": said["timeout"],
    }
    for field, key in (
        ("unhealthyThreshold", "unhealthy"),
        ("healthyThreshold", "healthy"),
        ("intervalJitterPercent", "jitter_percent"),
        ("altPort", "port"),
    ):
        if field in said:
            made[key] = said[field]  # type: ignore[literal-required]
    if "httpHealthCheck" in said:
        http = said["httpHealthCheck"]
        made["kind"] = "http"
        made["path"] = http["path"]
        if "host" in http:
            made["host"] = http["host"]
        if "expectedStatuses" in http:
            # Envoy's ranges do not hold their end
            made["expected"] = [[each["start"], each["end"] - 1] for each in http["expectedStatuses"]]
    elif "grpcHealthCheck" in said:
        grpc = said["grpcHealthCheck"]
        made["kind"] = "grpc"
        if grpc.get("serviceName"):
            made["service"] = grpc["serviceName"]
        if "authority" in grpc:
            made["host"] = grpc["authority"]
    out["health"] = made


def pack_health(packer: Packer, index: int, cluster: ir.Cluster, path: str) -> None:
    from fastmesh.compile.packing import choose, refuse, target_part, uint  # as in outlier.py

    made = cluster.get("health")
    if made is None:
        return
    path = f"{path}.health"
    kind = choose(KINDS, made["kind"], f"{path}.kind")
    target = target_part(made.get("path", ""), f"{path}.path")
    if kind == KINDS["http"] and not target.startswith("/"):
        raise refuse(f"{path}.path", f"{target[:80]!r} does not begin with /")
    host = target_part(made.get("host", ""), f"{path}.host")
    if len(host.encode()) > MAX_AUTHORITY:
        raise refuse(f"{path}.host", f"longer than {MAX_AUTHORITY}")
    service = made.get("service", "")
    if len(service.encode()) > MAX_SERVICE:
        raise refuse(f"{path}.service", f"longer than {MAX_SERVICE} bytes")
    ranges = made.get("expected", [])
    if len(ranges) > MAX_RANGES:
        raise refuse(f"{path}.expected", f"more than {MAX_RANGES}")
    expected: list[int] = []
    for i, (first, last) in enumerate(ranges):
        at = f"{path}.expected[{i}]"
        expected += [uint(first, at, 599, 100), uint(last, at, 599, first)]
    packer.cluster_health(
        index,
        (
            kind,
            uint(made.get("port", 0), f"{path}.port", 65535),
            uint(made["interval_ms"], f"{path}.interval_ms", least=1),
            uint(made.get("jitter_percent", JITTER_PERCENT), f"{path}.jitter_percent", 100),
            uint(made["timeout_ms"], f"{path}.timeout_ms", least=1),
            uint(made.get("unhealthy", UNHEALTHY), f"{path}.unhealthy", MAX_THRESHOLD, 1),
            uint(made.get("healthy", HEALTHY), f"{path}.healthy", MAX_THRESHOLD, 1),
        ),
        path=target,
        host=host,
        service=service,
        expected=expected,
    )
