"""Hostile configs: a packed one with something of everything in it, changed in every way; and its readers.

What snap_check takes is read without a bounds check, so the readers run over it: before a guard page, and, in
`make asan` and `make fuzz`, under AddressSanitizer.
"""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Iterator
from typing import Any

from shim.authz_shim import Judge
from shim.policy_shim import Balancer, Request, Router
from shim.shm_shim import Frozen, WorkerView, checksum

from fastmesh._core.proxy import explain
from fastmesh._core.shm.segment import CL_CELLS, EP_CELLS, Segment
from helpers import snapfields
from helpers.irconf import cluster, config, packed, route, vhost

CHECKSUM = 24  # where it stands in the header
OPS = {"remove": ["x-gone"], "set": [["x-set", "1"]], "add": [["x-add", "a b"], ["server", "s"]]}
MANY = 40  # routes of one host: enough for an index of their paths
OUTLIER = {
    "consecutive_5xx": 3,
    "consecutive_gateway": 2,
    "split": True,
    "consecutive_local": 4,
    "min_health_percent": 50,
    "success_rate": {"hosts": 2},
    "failure_percentage": {"percent": 50},
}
HEALTH = [
    {"kind": "http", "path": "/ok", "host": "h", "expected": [[200, 299], [404, 404]]},
    {"kind": "grpc", "service": "s"},
    {"kind": "tcp", "port": 81},
]
CORS = {
    "origins": [
        {"op": "exact", "value": "http://a"},
        {"op": "prefix", "value": "http://b"},
        {"op": "regex", "value": "http://c[0-9]"},
        {"op": "any"},
    ],
    "methods": ["GET", "PUT"],
    "headers": ["x-a"],
    "expose": ["x-b"],
    "max_age_s": 60,
    "credentials": True,
    "forward": False,
}
LIMITS = [
    {"owner": "r", "most": 5, "fill": 5, "fill_ms": 1000, "per": "named", "who": "spiffe://d/a"},
    {"owner": "r", "most": 9, "fill": 1, "fill_ms": 10, "per": "identity"},
    {"owner": "r", "most": 1, "fill": 1, "fill_ms": 1000, "per": "route"},
]
SOURCES = [
    {
        "principals": ["d/ns/n/sa/a", "*"],
        "notNamespaces": ["n*m", "x"],
        "notIpBlocks": ["10.0.0.0/8", "fd00::/9"],
    },
    {"remoteIpBlocks": ["192.0.2.0/24"], "serviceAccounts": ["n/a"]},
]
OPERATIONS = [
    {"hosts": ["a.com", "*.a.com"], "paths": ["/d", "/p*", "*new", "/r{*}/x/{**}"], "notMethods": ["PUT"]},
    {"ports": ["15001", "1"], "notPaths": ["/e"]},
]
WHEN = [
    {"key": "request.headers[x-a]", "values": ["abc", "d*"], "notValues": ["*c"]},
    {"key": "destination.ip", "notValues": ["127.0.0.2"]},
]
RULE = {
    "from": [{"source": source} for source in SOURCES],
    "to": [{"operation": operation} for operation in OPERATIONS],
    "when": WHEN,
}
AUTHZ = {
    "port": 1,
    "policies": [
        {
            "name": action,
            "namespace": "n",
            "action": action,
            "rules": [RULE, *more],
            "dry_run": dry,
            "tell": dry,
        }
        for action, more, dry in (
            ("DENY", [], False),
            ("ALLOW", [{"to": [{"operation": {"methods": ["*"]}}]}], False),
            ("AUDIT", [{}], False),
            ("DENY", [], True),
            ("ALLOW", [], True),
        )
    ],
}


def everything() -> dict[str, Any]:
    """A config that fills each section, and uses each kind of each."""
    conds = [
        {"on": "header", "op": "regex", "name": "x-a", "value": "a.*"},
        {"on": "header", "op": "prefix", "name": "cookie", "value": "c", "ignore_case": True},
        {"on": "query", "op": "exact", "name": "q", "value": "1"},
        {"on": "method", "op": "exact", "value": "PUT", "negate": True},
        {"on": "authority", "op": "suffix", "value": ".com"},
        {"on": "scheme", "op": "exact", "value": "http"},
        {"on": "port", "op": "exact", "number": 15001},
    ]
    dests = [
        {"cluster": "ring", "weight": 95, "request_headers": OPS},
        {"cluster": "maglev", "weight": 5, "response_headers": OPS},
        {"cluster": "gone", "weight": 1},
    ]
    fault = {"delay_ppm": 10, "delay_ms": 5, "abort_ppm": 20, "abort_status": 418, "abort_grpc": 3}
    retries = {
        "attempts": 2,
        "retry_on": ["5xx", "reset", "retriable-status-codes"],
        "statuses": [429, 503],
        "per_try_timeout_ms": 100,
        "anywhere": True,
        "same": True,
    }
    many = [
        route(
            f"m{i}", path={"op": ("exact", "prefix", "path_prefix")[i % 3], "value": f"/m{i // 2}"}, to="c1"
        )
        for i in range(MANY)
    ]
    own = [
        route(
            "cond",
            conds=conds,
            dests=dests,
            request_headers=OPS,
            response_headers=OPS,
            timeout_ms=5,
            retries=retries,
            fault=fault,
            mirrors=[{"cluster": "c1", "ppm": 10}, {"cluster": "gone"}],
            cors=CORS,
            limits=LIMITS,
        ),
        route(
            "regex",
            path={"op": "regex", "value": "/r([0-9]+)"},
            to="ewma",
            rewrite={"path": "/x\\1", "regex": "/r([0-9]+)", "authority": "h"},
        ),
        route(
            "prefix", path={"op": "path_prefix", "value": "/p"}, redirect={"prefix": "/q", "scheme": "https"}
        ),
        route(
            "moved",
            path={"op": "exact", "value": "/e"},
            redirect={"authority": "b", "port": 99, "path": "/z"},
        ),
        route(
            "direct",
            path={"op": "exact", "value": "/d"},
            direct={"status": 200, "body": b"hello", "content_type": "a/b"},
            cors=CORS,
            limits=LIMITS,
        ),
        *(
            route(f"to-{to}", path={"op": "prefix", "value": f"/{to}", "ignore_case": True}, to=to)
            for to in ("cookie", "source", "query", "random", "robin", "empty", "gone")
        ),
        route("rest", to="tls", rewrite={"path": "/new"}, retries={"attempts": 1, "retry_on": ["5xx"]}),
    ]
    timing = {"interval_ms": 1000, "timeout_ms": 100}
    return config(
        vhost(["*"], route("any", to="random")),
        vhost(["a.com", "a.com:80", "*.a.com", "*.x.a.com:80"], *own),
        vhost(["many.com"], *many, route("last", to="c1")),
        clusters=[
            cluster("c1", 1, 2, 3, weights=(1, 2, 3), service="s", outlier=OUTLIER, max_retries=3),
            cluster("ewma", 4, 5, lb="PEAK_EWMA", health={**HEALTH[0], **timing}, outlier=OUTLIER),
            cluster(
                "tls",
                6,
                7,
                tls={"context": "id", "sni": "sni", "sans": ["spiffe://d/a", "b"], "verify_san": True},
            ),
            cluster(
                "random",
                8,
                9,
                10,
                lb="RANDOM",
                weights=(9, 1, 1),
                protocol="h2",
                health={**HEALTH[1], **timing},
            ),
            cluster(
                "robin", 11, 12, lb="ROUND_ROBIN", weights=(3, 4), warm={"ms": 1000}, keepalive={"time_s": 5}
            ),
            cluster("ring", 13, 14, lb="RING_HASH", hash={"on": "header", "name": "x-a", "size": 16}),
            cluster("maglev", 15, 16, lb="MAGLEV", hash={"on": "header", "name": "host", "size": 13}),
            cluster(
                "cookie",
                17,
                18,
                lb="MAGLEV",
                hash={"on": "cookie", "name": "k", "ttl_s": 9, "path": "/", "size": 7},
                health={**HEALTH[2], **timing},
            ),
            cluster("source", 19, 20, lb="RING_HASH", hash={"on": "source", "size": 4}),
            cluster("query", 21, 22, lb="RING_HASH", hash={"on": "query", "name": "q", "size": 4}),
            cluster("empty"),
            cluster("called", 23, original_dst=True),
        ],
        listeners=[
            {
                "name": "outbound",
                "kind": "outbound",
                "address": "::",
                "port": 15001,
                "table": "main",
                "authz": AUTHZ,
            },
            {
                "name": "inbound",
                "kind": "inbound",
                "address": "::",
                "port": 1,
                "table": "main",
                "tls_mode": "permissive",
                "tls": ["id", "second"],
                "authz": AUTHZ,
                "captured": {"table": "main", "app_port": 9},
            },
            {
                "name": "captured",
                "kind": "outbound",
                "address": "::1",
                "port": 15002,
                "table": "main",
                "captured": {"table": "main"},
            },
            {
                "name": "gateway",
                "kind": "gateway",
                "address": "::",
                "port": 2,
                "table": "main",
                "https_redirect": True,
            },
        ],
        tls=[
            {
                "name": name,
                "server": True,
                "cert": b"PEM",
                "key": b"KEY",
                "ca": b"CA",
                "alpn": ["http/1.1", "h2"],
                "hosts": ["a.com", "*.b.com"],
                "verify": True,
                "trust_domain": "d",
            }
            for name in ("id", "second")
        ],
        cluster="service",
    )


def whole() -> bytes:
    return packed(everything())


def sealed(data: bytearray) -> bytes:
    """With the size and checksum that fit: they must not be what saves the readers."""
    if len(data) >= snapfields.HEADER:
        struct.pack_into("<Q", data, CHECKSUM - 8, len(data))
        struct.pack_into("<Q", data, CHECKSUM, checksum(bytes(data)))
    return bytes(data)


LISTENERS = ["outbound", "inbound", "gateway"]

# ---- what is asked of a config that was taken

HEADS = [
    (b"GET", b"a.com", b"/?q=1&a", (b"x-a: abc", b"cookie: c")),
    (b"GET", b"a.com", b"/?q=1", (b"x-a: abc", b"x-a: d", b"cookie: C=1", b"origin: http://a")),
    (b"OPTIONS", b"a.com", b"/d", (b"origin: http://c1", b"access-control-request-method: PUT")),
    (b"PUT", b"q.a.com", b"/r12?x", ()),
    (b"GET", b"x.x.a.com:80", b"/p/q", ()),
    (b"GET", b"a.com", b"/e?x=y", ()),
    (b"GET", b"a.com:80", b"/COOKIE", (b"cookie: k=v",)),
    (b"GET", b"a.com", b"/cookie/new", ()),
    (b"GET", b"a.com", b"/source", ()),
    (b"GET", b"a.com", b"/query?q=7", ()),
    (b"GET", b"a.com", b"/empty", ()),
    (b"GET", b"a.com", b"/gone", ()),
    (b"POST", b"a.com", b"/", (b"content-type: application/grpc", b"grpc-timeout: 1S")),
    (b"GET", b"many.com", b"/m7/x", ()),
    (b"GET", b"many.com", b"/m" + b"1" * 300, ()),
    (b"GET", b"nobody", b"/", ()),
    (b"OPTIONS", b"a.com", b"*", ()),
]


def question(method: bytes, host: bytes, target: bytes, fields: tuple[bytes, ...]) -> bytes:
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"Host: " + host, *fields, b"", b""])


def request(method: bytes, host: bytes, target: bytes, fields: tuple[bytes, ...]) -> Request:
    path, _, query = target.partition(b"?")
    pairs = [(name, value.strip()) for name, _, value in (field.partition(b":") for field in fields)]
    return Request(method=method, host=host, path=path, query=query, headers=pairs)


# ---- who asks

PEERS: list[dict[str, Any]] = [
    {"identity": b"d/ns/n/sa/a", "source": b"\x0a\0\0\1", "remote": b"\xc0\0\2\1", "dest": b"\x7f\0\0\2"},
    {"identity": b"d/ns/n1m/sa/" + b"a" * 300, "source": b"\xfd" + b"\0" * 15, "dest": b"\0" * 16},
    {"identity": b"other"},
    {"http": False},
]


class Readers:
    """Matcher, authorization, balancer and rehearsal (explain) over bytes that snap_check took."""

    def __init__(self) -> None:
        self.worker = WorkerView(Segment.create(2), 0)
        self.requests = [request(*head) for head in HEADS]
        self.questions = [question(*head) for head in HEADS]

    def match(self, frozen: Frozen) -> None:
        router = Router(frozen)
        router.load()
        for asked in self.requests:
            for rnd in (0, 2**31, 2**32 - 1):
                router.match(asked, table=0, rnd=rnd)
        balancer = Balancer(frozen, self.worker)
        for key in (None, 0, 2**64 - 1, 0x123456789ABCDEF):
            balancer.pick_all(key)

    def judge(self, frozen: Frozen) -> None:
        try:
            judge = Judge(frozen)
        except ValueError:  # a change took the policies from the first listener
            return
        for method, host, target, fields in HEADS:
            path = target.partition(b"?")[0]
            pairs = [(name, value.strip()) for name, _, value in (f.partition(b":") for f in fields)]
            for peer in PEERS:
                with contextlib.suppress(ValueError):  # the name of a rule that is no text
                    judge.judge(method=method, host=host, path=path, headers=pairs, **peer)

    def explain(self, data: bytes, listeners: list[str], questions: list[bytes]) -> None:
        for name in listeners:
            for asked in questions:
                # a pattern or text that is none; a listener of another name
                with contextlib.suppress(ValueError, KeyError):
                    explain.explain(data, name, asked, name == "inbound", b"spiffe://d/ns/n/sa/a")

    def run(self, data: bytes, rng: random.Random | None = None) -> bool:
        """Whether it was taken; then all was asked of it (with rng: little of explain, which is slow)."""
        frozen = Frozen(data)
        if frozen.check() is not None:
            return False
        self.match(frozen)
        self.judge(frozen)
        if rng is None:
            self.explain(data, LISTENERS, self.questions)
        elif rng.random() < 0.2:
            self.explain(data, [rng.choice(LISTENERS)], [rng.choice(self.questions)])
        return True


# ---- changes


def boundaries(data: bytes, size: int, old: int) -> list[int]:
    """What a number is changed to."""
    sections = [snapfields.section(data, name)[0] for name in snapfields.ELEMENTS]
    values = [0, 1, 2, 7, 15, 16, 17, 99, 100, 101, 255, 256, 599, 600, 0xFFFF, 0x10000, 1_000_000, 1_000_001]
    values += [0x7FFFFFFF, 0x80000000, 0xFFFFFFF8, 0xFFFFFFFF, 2**63, 2**64 - 1]
    values += [len(data), len(data) - 1, len(data) - 8, snapfields.HEADER, EP_CELLS, CL_CELLS, *sections]
    values += [old + delta for delta in (-64, -24, -8, -1, 1, 8, 24, 64)]
    return [value for value in dict.fromkeys(values) if 0 <= value < 1 << (8 * size) and value != old]


def every_field(data: bytes) -> Iterator[tuple[str, bytearray]]:
    """Each number of the header, and of three elements of each section, with each value."""
    places = [("header", snapfields.Field(f.name, f.at, f.size)) for f in snapfields.STRUCTS["SnapHeader"][1]]
    for name, found in snapfields.elements(data).items():
        for at, kind in {found[i]: None for i in (0, len(found) // 2, -1)} if found else {}:
            for f in snapfields.STRUCTS[kind][1]:
                places.append((name, snapfields.Field(f.name, at + f.at, f.size)))
    for name, f in places:
        old = struct.unpack_from(f.form, data, f.at)[0]
        for value in boundaries(data, f.size, old):
            made = bytearray(data)
            struct.pack_into(f.form, made, f.at, value)
            yield f"{name}.{f.name} {old} -> {value}", made


def mutated(data: bytes, rng: random.Random, places: list[int]) -> bytearray:
    """One to four changes at numbers (places) or anywhere, or a part that is copied over another."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.choice(places) if rng.random() < 0.8 else rng.randrange(snapfields.HEADER, len(made) - 8)
        match rng.randrange(5):
            case 0:
                made[at] ^= 1 << rng.randrange(8)
            case 1:
                made[at] = rng.randrange(256)
            case 2:
                struct.pack_into("<I", made, at & ~3, rng.choice(boundaries(data, 4, -1)))
            case 3:
                old = struct.unpack_from("<I", made, at & ~3)[0]
                struct.pack_into(
                    "<I", made, at & ~3, (old + rng.choice((-24, -8, -1, 1, 8, 24, 64))) & 0xFFFFFFFF
                )
            case _:
                n = rng.choice((4, 8, 24, 64))
                source = rng.choice(places) & ~3
                made[at & ~3 : (at & ~3) + n] = made[source : source + n]
    return made


def places(data: bytes) -> list[int]:
    """Where numbers stand, each section as likely as any other."""
    found = []
    for elements in snapfields.elements(data).values():
        numbers = [at + f.at for at, kind in elements for f in snapfields.STRUCTS[kind][1]]
        found += random.Random(0).choices(numbers, k=400) if numbers else []
    return [*found, *(f.at for f in snapfields.STRUCTS["SnapHeader"][1] if f.at > CHECKSUM)]
