"""What load balancing beyond the choice of an algorithm is packed from.

Knows the dict form of a cluster (model/ir.py); the tables are made by shm/hashtab.
"""

from __future__ import annotations

from fastmesh._core.shm.pack import Packer
from fastmesh.compile.packing import MAX_NAME, MAX_VALUE, TOKEN, choose, refuse, target_part, uint

TYPE_CHECKING = False  # of typing: see tables
if TYPE_CHECKING:
    from fastmesh.model import ir

HASHING = ("RING_HASH", "MAGLEV")
WARMING = ("LEAST_REQUEST", "ROUND_ROBIN", "PEAK_EWMA")
WARM_PERCENT, MAX_AGGRESSION_CENTI = 10, 10_000  # Envoy's min_weight_percent
HASH_ON = {"header": 1, "cookie": 2, "source": 3, "query": 4}  # HASH_* of shm/snapshot.pxd
NO_COOKIE = 0xFFFFFFFF  # as HASH_NO_COOKIE
MAX_TABLE = 1_048_576  # as HASH_MAX_TABLE: what a ring or table may cost every worker's cache
DECAY_MS, MAX_DECAY_MS = 10_000, 3_600_000  # Linkerd's default
RING_SIZE, TABLE_SIZE = 1024, 65537  # Envoy's defaults


def is_prime(n: int) -> bool:
    """By trial division: up to MAX_TABLE that is a thousand steps."""
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def pack_balance(packer: Packer, index: int, cluster: ir.Cluster, path: str, *, parted: bool = False) -> None:
    """All that load balancing of a cluster needs besides its algorithm. `parted`: into levels, which have the
    tables of hashing."""
    pack_hash(packer, index, cluster, path, parted)
    decay = uint(cluster.get("decay_ms", DECAY_MS), f"{path}.decay_ms", MAX_DECAY_MS, 1)
    at = f"{path}.warm"
    none: ir.Warm = {"ms": 0}
    warm = cluster.get("warm", none)
    if "warm" in cluster:
        uint(warm["ms"], f"{at}.ms", least=1)
        if cluster.get("lb", "LEAST_REQUEST") not in WARMING:
            raise refuse(at, f"goes with {', '.join(WARMING)} only")
    least = uint(warm.get("least_percent", WARM_PERCENT), f"{at}.least_percent", 100)
    aggression = uint(warm.get("aggression_centi", 100), f"{at}.aggression_centi", MAX_AGGRESSION_CENTI, 100)
    packer.cluster_shape(
        index,
        decay_ms=decay if cluster.get("lb") == "PEAK_EWMA" else 0,
        warm_ms=warm["ms"],
        warm_least_percent=least,
        warm_aggression_centi=aggression,
    )


def table_size(cluster: ir.Cluster, path: str) -> int:
    """Least points of the ring, or slots of Maglev's table; 0: the cluster has none."""
    lb, made, path = cluster.get("lb", ""), cluster.get("hash"), f"{path}.hash.size"
    if made is None:
        return 0
    size = uint(made.get("size", RING_SIZE if lb == "RING_HASH" else TABLE_SIZE), path, MAX_TABLE, 1)
    if lb == "MAGLEV" and not is_prime(size):
        raise refuse(path, f"{size} is no prime")
    return size


def pack_hash(packer: Packer, index: int, cluster: ir.Cluster, path: str, parted: bool) -> None:
    """The part of a cluster that RING_HASH and MAGLEV need."""
    lb, made = cluster.get("lb", ""), cluster.get("hash")
    if (lb in HASHING) != (made is not None):
        raise refuse(f"{path}.hash", "goes with RING_HASH and MAGLEV, and they with it")
    if made is None:
        return
    path = f"{path}.hash"
    on, name = choose(HASH_ON, made["on"], f"{path}.on"), made.get("name", "")
    if on == HASH_ON["cookie"] and not set(name) <= set(TOKEN):
        raise refuse(f"{path}.name", f"{name!r} is no name of a cookie")
    if len(name) > MAX_NAME or (made["on"] != "source") != bool(name):
        raise refuse(f"{path}.name", "missing, of no use, or too long")
    size = 0 if parted else table_size(cluster, path.removesuffix(".hash"))
    cookie_path = target_part(made.get("path", ""), f"{path}.path")
    if len(cookie_path) > MAX_VALUE or ";" in cookie_path:
        raise refuse(f"{path}.path", "too long, or with a semicolon")
    ttl = uint(made.get("ttl_s", 0), f"{path}.ttl_s", NO_COOKIE - 1) if "ttl_s" in made else NO_COOKIE
    packer.cluster_hash(index, on=on, name=name, path=cookie_path, ttl_s=ttl, size=size)
