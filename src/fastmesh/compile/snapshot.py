"""A config (model/ir.py) into the bytes of a snapshot.

Drives shm/pack; knows no offsets. Names are resolved, so that the data path sees indexes only; what cannot
be packed is refused with its path in the config.
"""

from __future__ import annotations

from _socket import inet_ntop

from fastmesh._core.shm.pack import NONE, Packer, fnv1a
from fastmesh.compile.authz import pack_authz
from fastmesh.compile.balance import pack_balance
from fastmesh.compile.cells import CellMap
from fastmesh.compile.health import pack_health
from fastmesh.compile.locality import pack_levels
from fastmesh.compile.outlier import pack_outlier
from fastmesh.compile.packing import FAMILIES, address_bytes, choose, refuse, run, uint
from fastmesh.compile.tables import MAX_TOTAL, MAX_WEIGHT, TablePacker

TYPE_CHECKING = False  # of typing: see tables
if TYPE_CHECKING:
    from fastmesh.model import ir

KINDS = {"gateway": 0, "outbound": 1, "inbound": 2}
TLS_MODES = {"disable": 0, "strict": 1, "permissive": 2}
LB = {"ROUND_ROBIN": 0, "LEAST_REQUEST": 1, "RANDOM": 2, "PEAK_EWMA": 3, "RING_HASH": 4, "MAGLEV": 5}
TLS_VERSIONS = {"1.2": 0x0303, "1.3": 0x0304}
HTTPS_REDIRECT = 1
LISTENER_PROTOCOL = {"http": 0, "tcp": 2, "sni": 6}  # LF_TCP, LF_SNI
VERIFY_SAN = 2
ORIGINAL_DST = 32
PROTOCOL = {"http1": 0, "h2": 4, "as_client": 8, "tcp": 0}  # CL_H2, CL_AS_CLIENT
ENDPOINT_TLS = 1
TLS_SERVER, TLS_VERIFY, TLS_TICKETS = 1, 2, 4
# The ALPN name of the link between proxies of a mesh: HTTP/2 with facts that only such a peer is believed.
LINK = "fastmesh"
CONNECT_TIMEOUT_MS = 10_000  # Istio's defaults
IDLE_TIMEOUT_MS = 3_600_000
MAX_CONNECTIONS = 1024  # Envoy's defaults of circuit breaking (Istio has none); 0: no limit
LIMITS = (
    ("max_pending", 1024),
    ("max_requests", 1024),
    ("max_retries", 0),  # Envoy: 3; here the budget is what bounds them
    ("budget_ppm", 200_000),  # Envoy's retry_budget, which it leaves out by default
    ("budget_least", 3),
)


def pack_tls(packer: Packer, tls: ir.TlsContext, path: str) -> int:
    server = tls["server"]
    cert, key, ca = tls.get("cert", b""), tls.get("key", b""), tls.get("ca", b"")
    if server and not (cert and key):
        raise refuse(path, "a server needs cert and key")
    if bool(cert) != bool(key):
        raise refuse(path, "cert and key go together")
    names = [name.encode() for name in tls.get("alpn", ())]
    if not all(0 < len(name) < 256 for name in names):
        raise refuse(f"{path}.alpn", "a name has 1 to 255 bytes")
    alpn = b"".join(bytes([len(name)]) + name for name in names)
    # A client that does not verify must say so; a server asks for certificates only when told to.
    flags = TLS_VERIFY if tls.get("verify", not server) else 0
    flags |= (TLS_SERVER | TLS_TICKETS) if server else 0
    version = choose(TLS_VERSIONS, tls.get("min_version", "1.2"), f"{path}.min_version")
    hosts = [host.lower() for host in tls.get("hosts", ())]
    domain = tls.get("trust_domain", "")
    if LINK in tls.get("alpn", ()) and not (cert and flags & TLS_VERIFY and domain):
        raise refuse(f"{path}.alpn", f"{LINK!r} is for peers that show each other an identity of the mesh")
    denied = "".join(f"{identity}\n" for identity in tls.get("denied", ())).encode()
    parts = [cert, key, ca, alpn, domain.encode(), denied, repr((flags, version, hosts)).encode()]
    content = fnv1a(b"".join(len(part).to_bytes(4, "big") + part for part in parts))
    return packer.tls(
        tls["name"],
        key=content,
        flags=flags,
        min_version=version,
        cert=cert,
        private_key=key,
        ca=ca,
        alpn=alpn,
        trust_domain=domain,
        hosts=hosts,
        denied=denied,
    )


def pack_endpoints(
    packer: Packer, cluster: ir.Cluster, cells: CellMap, path: str
) -> tuple[list[int], list[int]]:
    """The endpoints that were packed, nearest first, and the level of each."""
    made, levels, total = [], [], 0
    seen: set[str] = set()
    for i, endpoint in sorted(enumerate(cluster["endpoints"]), key=lambda pair: pair[1].get("level", 0)):
        at = f"{path}.endpoints[{i}]"
        family, raw = address_bytes(endpoint["address"], f"{at}.address")
        port = uint(endpoint["port"], f"{at}.port", 65535, 1)
        weight = uint(endpoint.get("weight", 1), f"{at}.weight", MAX_WEIGHT)
        if weight == 0:
            continue  # takes no request: as if it were not there
        host = inet_ntop(FAMILIES[family], raw)  # one spelling, so that one address has one cell
        text = f"{host}:{port}" if family == 4 else f"[{host}]:{port}"
        if text in seen:
            continue  # a name may resolve to an address that is there already: the first says how
        seen.add(text)
        total += weight
        if total > MAX_TOTAL:
            raise refuse(path, f"weights add up to more than {MAX_TOTAL}")
        levels.append(endpoint.get("level", 0))
        cell, tag = cells.take(cluster["name"], text, at)
        made.append(
            packer.endpoint(
                family=family,
                addr=raw,
                port=port,
                flags=ENDPOINT_TLS if endpoint.get("tls") else 0,
                cell=cell,
                weight=weight,
                text=text,
                workload=endpoint.get("workload", ""),
                tag=tag,
            )
        )
    return made, levels


def trust_of(tls: ir.TlsContext) -> int:
    """What a connection that is kept depends on. The mesh's own identity is renewed each day, and that must
    not end connections; where files are named, others mean another client or other trust. What is offered by
    ALPN counts in both: it decides what a kept connection speaks."""
    kept = list(tls.get("alpn", ())) if tls.get("trust_domain") else sorted(tls.items())
    return fnv1a(repr(kept).encode())


def pack_cluster(
    packer: Packer,
    cluster: ir.Cluster,
    tls: dict[str, int],
    trust: dict[str, int],
    cells: CellMap,
    path: str,
) -> int:
    secure = cluster.get("tls")
    context, policy, sans, sni, flags = NONE, 0, [], "", 0
    if secure is not None:
        context = choose(tls, secure["context"], f"{path}.tls.context")
        sans, sni = list(secure.get("sans", ())), secure.get("sni", "")
        flags = VERIFY_SAN if secure.get("verify_san", bool(sans)) else 0
        name = secure["context"]
        policy = fnv1a(repr((name, trust[name], sni, sorted(sans), flags)).encode())
    elif any(endpoint.get("tls") for endpoint in cluster["endpoints"]):
        raise refuse(f"{path}.tls", "missing, but an endpoint wants TLS")
    if cluster.get("original_dst"):
        flags |= ORIGINAL_DST
        cluster = {**cluster, "max_requests_per_connection": 1}  # no connection is for two addresses
    endpoints, levels = pack_endpoints(packer, cluster, cells, path)
    index = packer.cluster(
        cluster["name"],
        cell=cells.cluster(cluster["name"], path),
        service=cluster.get("service", ""),
        endpoints=run(endpoints),
        lb=choose(LB, cluster.get("lb", "LEAST_REQUEST"), f"{path}.lb"),
        flags=flags | choose(PROTOCOL, cluster.get("protocol", "http1"), f"{path}.protocol"),
        **{
            name: uint(cluster.get(name, default), f"{path}.{name}")
            for name, default in (
                ("connect_timeout_ms", CONNECT_TIMEOUT_MS),
                ("idle_timeout_ms", IDLE_TIMEOUT_MS),
                ("max_requests_per_connection", 0),
                ("max_connections", MAX_CONNECTIONS),
                ("max_streams", 0),
            )
        },
        tls=context,
        sni=sni,
        sans=sans,
        tls_policy=policy,
    )
    limits = {name: uint(cluster.get(name, default), f"{path}.{name}") for name, default in LIMITS}
    limits["max_age_ms"] = uint(cluster.get("max_age_ms", 0), f"{path}.max_age_ms")
    packer.cluster_limits(index, **limits)
    keepalive = cluster.get("keepalive")
    if keepalive is not None:
        packer.cluster_keepalive(
            index,
            **{
                name: uint(keepalive.get(name, 0), f"{path}.keepalive.{name}", 32767)
                for name in ("time_s", "interval_s", "probes")
            },
        )
    pack_balance(packer, index, cluster, path, parted=len(set(levels)) > 1)
    pack_levels(packer, index, cluster, levels, path)
    pack_outlier(packer, index, cluster, path)
    pack_health(packer, index, cluster, path)
    return index


def pack_listener(
    packer: Packer, listener: ir.Listener, tables: dict[str, int], tls: dict[str, int], path: str
) -> None:
    mode = choose(TLS_MODES, listener.get("tls_mode", "disable"), f"{path}.tls_mode")
    contexts = [choose(tls, name, f"{path}.tls[{i}]") for i, name in enumerate(listener.get("tls", ()))]
    if mode and not contexts:
        raise refuse(f"{path}.tls", "TLS without a certificate")
    index = packer.listener(
        listener["name"],
        kind=choose(KINDS, listener["kind"], f"{path}.kind"),
        tls_mode=mode,
        port=uint(listener["port"], f"{path}.port", 65535),
        flags=(HTTPS_REDIRECT if listener.get("https_redirect") else 0)
        | choose(LISTENER_PROTOCOL, listener.get("protocol", "http"), f"{path}.protocol"),
        table=choose(tables, listener["table"], f"{path}.table"),
        tls=contexts,
    )
    captured = listener.get("captured")
    if captured is not None:
        packer.listener_captured(
            index,
            choose(tables, captured["table"], f"{path}.captured.table"),
            uint(captured.get("app_port", 0), f"{path}.captured.app_port", 65535),
        )
    if "authz" in listener:
        packer.listener_authz(index, pack_authz(packer, listener["authz"], f"{path}.authz"))


def unique(names: list[str], path: str) -> None:
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            raise refuse(f"{path}[{i}].name", f"{name!r} is there twice")
        seen.add(name)


def pack(config: ir.Config, cells: CellMap) -> bytes:
    """The bytes for Segment.publish. SnapshotError with the path of what cannot be packed."""
    packer = Packer()
    unique([listener["name"] for listener in config["listeners"]], "listeners")
    unique([table["name"] for table in config["tables"]], "tables")
    unique([cluster["name"] for cluster in config["clusters"]], "clusters")
    unique([tls["name"] for tls in config["tls"]], "tls")
    cells.collect()
    tls = {t["name"]: pack_tls(packer, t, f"tls[{i}]") for i, t in enumerate(config["tls"])}
    trust = {t["name"]: trust_of(t) for t in config["tls"]}
    clusters: dict[str, int] = {}
    for _, i in sorted((fnv1a(c["name"].encode()), i) for i, c in enumerate(config["clusters"])):
        cluster = config["clusters"][i]
        clusters[cluster["name"]] = pack_cluster(packer, cluster, tls, trust, cells, f"clusters[{i}]")
    made = TablePacker(packer, clusters)
    tables = {t["name"]: made.table(t, f"tables[{i}]") for i, t in enumerate(config["tables"])}
    for i, listener in enumerate(config["listeners"]):
        pack_listener(packer, listener, tables, tls, f"listeners[{i}]")
    return packer.finish(config["node_id"], config.get("cluster", ""))
