"""What the numbers in shared memory stand for: cluster ids and endpoint cells by name, peers by workload.

Owns the memory of names: metrics outlive the config that their clusters and endpoints came from.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastmesh.model.ir import Config

# Names of clusters and endpoints that are remembered. Beyond, the oldest are forgotten: their series then say
# "unknown", as they do for what a restarted agent never knew.
MAX_NAMES = 20_000

UNKNOWN = "unknown"


class Names:
    """Cluster id -> cluster, cell -> (cluster, endpoint), filled from each config that is served."""

    def __init__(self) -> None:
        self.clusters: dict[int, dict[str, Any]] = {}
        self.endpoints: dict[int, dict[str, Any]] = {}

    def learn(self, config: Config, cells: dict[int, int]) -> None:
        """Take up the names of a config; `cells` is CellMap's: tag -> cell."""
        from fastmesh._core.shm.segment import cluster_id

        for cluster in config["clusters"]:
            name = cluster["name"]
            sans = cluster["tls"].get("sans", []) if "tls" in cluster else []
            known: dict[str, Any] = {
                "name": name,
                "service": cluster.get("service", ""),
                "namespace": cluster.get("namespace", ""),
                "identity": sans[0] if len(sans) == 1 else "",
            }
            _put(self.clusters, cluster_id(name), known)
            for endpoint in cluster["endpoints"]:
                address, port = endpoint["address"], endpoint["port"]
                text = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
                cell = cells.get(cluster_id(f"{name}\0{text}"))
                if cell is not None:
                    _put(self.endpoints, cell, {**endpoint, "text": text, "cluster": name})

    def cluster(self, number: int) -> dict[str, Any]:
        return self.clusters.get(number, _NOTHING)

    def endpoint(self, cell: int | None) -> dict[str, Any]:
        return _NOTHING if cell is None else self.endpoints.get(cell, _NOTHING)


def _put(table: dict[int, dict[str, Any]], key: int, value: dict[str, Any]) -> None:
    table.pop(key, None)
    table[key] = value
    if len(table) > MAX_NAMES:
        del table[next(iter(table))]


_NOTHING: dict[str, Any] = {}


def peer_parts(identity: str) -> tuple[str, str]:
    """(namespace, service account) of spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT, else two empty strings."""
    parts = identity.split("/")
    if len(parts) == 7 and parts[0] == "spiffe:" and parts[3] == "ns" and parts[5] == "sa":
        return parts[4], parts[6]
    return "", ""


def service_parts(host: str, namespace: str) -> tuple[str, str]:
    """(name, namespace) of a service as Istio's labels have them: reviews, default."""
    name, _, rest = host.partition(".")
    if rest.endswith(".svc.cluster.local"):
        return name, rest.removesuffix(".svc.cluster.local")
    return host, namespace


def counter_name(name: str) -> str:
    """How a counter of shared memory is called in metrics."""
    return f"fastmesh_{name}" if name.endswith("_total") else f"fastmesh_{name}_total"
