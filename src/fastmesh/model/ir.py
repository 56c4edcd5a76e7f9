"""The compiled form of a config ("IR"): plain dicts that msgpack carries, from fastmesh.compile to shm/pack.

It knows nothing of Istio's resources and nothing of bytes in shared memory. Keys that are absent mean the
default named here. Import it under TYPE_CHECKING only: at run time a sidecar handles plain dicts and does not
pay for `typing`.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Balancing = Literal["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "PEAK_EWMA", "RING_HASH", "MAGLEV"]
Op = Literal["exact", "prefix", "suffix", "regex", "present", "path_prefix"]


class HdrOps(TypedDict, total=False):
    """Header operations, applied in the order remove, set, add (Envoy's order: removed first)."""

    remove: list[str]
    set: list[list[str]]  # [name, value]
    add: list[list[str]]


class Cond(TypedDict):
    """One condition of a route; all conditions of a route must hold."""

    on: Literal["method", "header", "query", "authority", "scheme", "port", "destination"]
    op: Op
    name: NotRequired[str]  # header or query parameter
    value: NotRequired[str]
    number: NotRequired[int]  # port: the listener's; of TCP the one that was called
    networks: NotRequired[list[str]]  # destination, of TCP: "10.0.0.0/8", "10.1.2.3", one of which holds it
    negate: NotRequired[bool]  # withoutHeaders
    ignore_case: NotRequired[bool]


class PathMatch(TypedDict):
    """How the path (without query) must look; a route without one takes any path."""

    op: Op
    value: str
    ignore_case: NotRequired[bool]


class Dest(TypedDict):
    """A weighted destination."""

    cluster: str
    weight: int
    request_headers: NotRequired[HdrOps]
    response_headers: NotRequired[HdrOps]


class Redirect(TypedDict, total=False):
    code: int  # 301
    scheme: str
    authority: str
    port: int
    path: str  # whole new path
    prefix: str  # replaces the matched prefix


class Direct(TypedDict):
    status: int
    body: NotRequired[bytes]
    content_type: NotRequired[str]


class Rewrite(TypedDict, total=False):
    path: str  # with a prefix match: replaces the matched prefix; else the whole path
    regex: str  # then `path` replaces each match of it in the path; \\1 is what a group matched
    authority: str


class Retries(TypedDict, total=False):
    attempts: int  # beyond the first
    per_try_timeout_ms: int
    # Envoy's names: connect-failure, reset-before-request, 5xx, gateway-error, reset, refused-stream, ...
    retry_on: list[str]
    statuses: list[int]  # with retriable-status-codes
    backoff_ms: int  # 25; doubling with full jitter up to ten times that
    anywhere: bool  # retryRemoteLocalities
    same: bool  # also at once on the endpoint that failed


class Fault(TypedDict, total=False):
    """Parts per million of the requests (delay) and of the attempts (abort)."""

    delay_ppm: int
    delay_ms: int
    abort_ppm: int
    abort_status: int
    abort_grpc: int  # a gRPC call is answered with this status; abort_status is for the others


class Mirror(TypedDict):
    """Where copies of the requests go; what comes back is thrown away."""

    cluster: str
    ppm: NotRequired[int]  # of the requests, in parts per million: 1000000


class Origin(TypedDict):
    op: Literal["any", "exact", "prefix", "regex"]
    value: NotRequired[str]


class Cors(TypedDict):
    """Cross-origin requests."""

    origins: list[Origin]
    methods: NotRequired[list[str]]
    headers: NotRequired[list[str]]
    expose: NotRequired[list[str]]
    max_age_s: NotRequired[int]
    credentials: NotRequired[bool]
    forward: NotRequired[bool]  # preflights of origins that are not allowed: true


class Source(TypedDict, total=False):
    """For which sidecars a route of a fragment is; left away when a config is assembled."""

    labels: dict[str, str]
    namespace: str


class Limit(TypedDict):
    """A token bucket: `most` tokens at first and at most, `fill` more in `fill_ms`, little by little."""

    owner: str  # what it belongs to: limits of the same owner that say the same are one
    most: int
    fill: int
    fill_ms: int
    per: Literal["route", "identity", "named"]  # one for all, for each caller, or for `who`
    who: NotRequired[str]  # a SPIFFE ID, whose bucket this is in the place of the one for each caller


class Route(TypedDict, total=False):
    """Exactly one of dests, redirect, direct."""

    name: str
    origin: str  # "VirtualService ns/name: spec.http[2].match[1]": for people, of an edge's file
    path: PathMatch
    conds: list[Cond]
    dests: list[Dest]
    redirect: Redirect
    direct: Direct
    rewrite: Rewrite
    timeout_ms: int  # 0: none
    retries: Retries
    fault: Fault
    mirrors: list[Mirror]
    cors: Cors
    source: Source
    limits: list[Limit]  # each must have a token; those of callers first
    request_headers: HdrOps
    response_headers: HdrOps


class VirtualHost(TypedDict):
    name: str
    domains: list[str]  # "reviews", "reviews:9080", "*.example.com", "*"; lower case
    routes: list[Route]
    # For people, of a sidecar's hosts, which have one source each: "VirtualService ns/name", and where in it
    # each route stands: "0.0 0.1 1" (rule, then its match if it has some). Two strings, not one a route.
    source: NotRequired[str]
    places: NotRequired[str]


class RouteTable(TypedDict):
    name: str
    virtual_hosts: list[VirtualHost]


class Endpoint(TypedDict):
    address: str  # IP literal, or a host name that the agent resolves before packing
    port: int
    weight: NotRequired[int]  # 1
    tls: NotRequired[bool]  # dial with the cluster's TLS context
    workload: NotRequired[str]
    namespace: NotRequired[str]
    version: NotRequired[str]
    locality: NotRequired[str]  # region/zone/subzone
    labels: NotRequired[dict[str, str]]  # those that the cluster's locality goes by
    level: NotRequired[int]  # 0: as every endpoint of a cluster without levels


class ClusterTls(TypedDict):
    context: str  # name of a TlsContext; the agent fills in "identity" for ISTIO_MUTUAL
    sni: NotRequired[str]
    sans: NotRequired[list[str]]  # accepted peer identities
    verify_san: NotRequired[bool]


class Keepalive(TypedDict, total=False):
    """0: the system's value."""

    time_s: int
    interval_s: int
    probes: int


class Locality(TypedDict, total=False):
    """How endpoints get levels by where they are and who asks (compile/locality.py). No key: by region,
    zone and subzone."""

    failover: dict[str, str]  # region -> the one that stands in for it
    priority: list[str]  # labels: the more of them are the client's, from the first on, the nearer
    distribute: list[list[Any]]  # [place of the client, [[place, percent], ...]]


class Hash(TypedDict):
    """What RING_HASH and MAGLEV go by."""

    on: Literal["header", "cookie", "source", "query"]
    name: NotRequired[str]  # of the header, cookie or query parameter
    # Of a cookie that the proxy makes for a request without one; 0: a session's. Without: none is made.
    ttl_s: NotRequired[int]
    path: NotRequired[str]  # ... and its path
    size: NotRequired[int]  # least points of the ring (1024), or slots of Maglev's table: a prime (65537)


class Warm(TypedDict):
    """A new endpoint's share of its weight, over time: with ROUND_ROBIN, LEAST_REQUEST and PEAK_EWMA."""

    ms: int
    least_percent: NotRequired[int]  # 10
    aggression_centi: NotRequired[int]  # 100: in proportion to time


class SuccessRate(TypedDict, total=False):
    """Ejects who is below mean - stdev * factor of those with enough requests in an interval."""

    hosts: int  # 5: only with so many such endpoints
    volume: int  # 100: requests in an interval
    stdev_milli: int  # 1900: factor, in thousandths


class FailurePercentage(TypedDict, total=False):
    """Ejects whom at least so many percent of the requests of an interval failed with."""

    percent: int  # 85
    hosts: int  # 5
    volume: int  # 50


class OutlierDetection(TypedDict, total=False):
    """When an endpoint is ejected: failures in a row; 0 is no reason."""

    consecutive_5xx: int  # 5
    consecutive_gateway: int  # 502, 503, 504: 0
    consecutive_local: int  # no connection, no answer; with split only: 5
    split: bool  # these do not count as 5xx and gateway errors
    interval_ms: int  # 10000: one ejection is forgiven for each
    base_ms: int  # 30000, times the ejections in a row
    most_ms: int  # 300000
    max_percent: int  # of the endpoints: 10; one may always be ejected unless it is 0
    min_health_percent: int  # with fewer usable ones all are used: 0
    success_rate: SuccessRate  # without it off
    failure_percentage: FailurePercentage  # without it off


class HealthCheck(TypedDict):
    """Active checks of each endpoint, made by the workers."""

    kind: Literal["http", "grpc", "tcp"]
    interval_ms: int  # from the end of one check to the next
    timeout_ms: int
    unhealthy: NotRequired[int]  # failures in a row: 3
    healthy: NotRequired[int]  # successes in a row: 2
    jitter_percent: NotRequired[int]  # of the interval, up to: 10
    port: NotRequired[int]  # another than the endpoint's
    path: NotRequired[str]  # with http
    host: NotRequired[str]  # :authority; the service
    service: NotRequired[str]  # with grpc
    expected: NotRequired[list[list[int]]]  # with http: [first, last]; 200


class Cluster(TypedDict):
    name: str  # outbound|9080|v1|reviews.default.svc.cluster.local
    service: NotRequired[str]  # reviews.default.svc.cluster.local
    namespace: NotRequired[str]
    lb: NotRequired[Balancing]  # LEAST_REQUEST
    decay_ms: NotRequired[int]  # with PEAK_EWMA: 10000
    outlier: NotRequired[OutlierDetection]  # without it nothing is ejected
    health: NotRequired[HealthCheck]  # without it no endpoint is checked
    locality: NotRequired[Locality]  # without it all endpoints are one level
    # Percent of the requests for each level; without: the nearest gets what it can take.
    shares: NotRequired[list[int]]
    hash: NotRequired[Hash]  # with RING_HASH and MAGLEV, and only with them
    warm: NotRequired[Warm]
    connect_timeout_ms: NotRequired[int]  # 10000 (Istio)
    idle_timeout_ms: NotRequired[int]  # 3600000 (Istio)
    max_requests_per_connection: NotRequired[int]  # 0: no limit
    # Limits of all workers together; 0: none.
    max_connections: NotRequired[int]  # 1024
    max_pending: NotRequired[int]  # requests that wait for a connection: 1024
    max_requests: NotRequired[int]  # in flight: 1024
    max_retries: NotRequired[int]  # 0
    budget_ppm: NotRequired[int]  # retries by requests in flight, parts per million: 200000
    budget_least: NotRequired[int]  # 3
    max_age_ms: NotRequired[int]  # of a connection; 0: no limit
    keepalive: NotRequired[Keepalive]  # TCP's; without it there is none
    max_streams: NotRequired[int]  # of one HTTP/2 connection; 0: what the peer allows
    # Of endpoints without TLS; with TLS, ALPN decides. Default: http1.
    # tcp: only for TCP sessions; idle_timeout_ms is then the time in which nothing moves.
    protocol: NotRequired[Literal["http1", "h2", "as_client", "tcp"]]
    dns: NotRequired[bool]  # endpoints carry host names
    # Its one endpoint stands for whatever address the client of a captured listener has called.
    original_dst: NotRequired[bool]
    tls: NotRequired[ClusterTls]
    endpoints: list[Endpoint]


class TlsContext(TypedDict):
    """Certificates are PEM; whoever compiles a file-based config reads `cert_file` and friends."""

    name: str
    server: bool
    cert: NotRequired[bytes]
    key: NotRequired[bytes]
    ca: NotRequired[bytes]
    verify: NotRequired[bool]
    hosts: NotRequired[list[str]]  # SNI
    alpn: NotRequired[list[str]]  # in order; "fastmesh", the mesh link, is for mesh identities only
    min_version: NotRequired[Literal["1.2", "1.3"]]
    trust_domain: NotRequired[str]
    denied: NotRequired[list[str]]  # SPIFFE IDs


class Policy(TypedDict):
    """An AuthorizationPolicy."""

    name: str
    namespace: str
    action: Literal["ALLOW", "DENY", "AUDIT"]
    rules: list[dict[str, Any]]  # as in the resource
    dry_run: NotRequired[bool]  # istio.io/dry-run: only tried
    tell: NotRequired[bool]  # denials name the rule to the client too


class Authz(TypedDict):
    policies: list[Policy]  # in the order in which they are named
    port: NotRequired[int]  # that `ports` speak of; the listener's


class Captured(TypedDict):
    """Connections are redirected to the listener by a rule of the packet filter, and it knows whom they were
    for. Those that were not redirected it takes as any listener."""

    # RouteTable of the rest: of an outbound listener what is no HTTP, of an inbound one other ports than
    # the application's. Virtual hosts are the names in a ClientHello; routes as those of `tcp`.
    table: str
    app_port: NotRequired[int]  # inbound


class Listener(TypedDict):
    name: str  # "outbound", "inbound", "0.0.0.0_8080"
    kind: Literal["gateway", "outbound", "inbound"]
    address: str
    port: int
    table: str  # RouteTable name
    tls_mode: NotRequired[Literal["disable", "strict", "permissive"]]
    tls: NotRequired[list[str]]  # TlsContext names, the first is the default
    https_redirect: NotRequired[bool]
    authz: NotRequired[Authz]  # without it everything is allowed
    captured: NotRequired[Captured]
    # tcp: bytes, whatever they mean; sni: TLS that is not ended here, whose routes are found by the name in
    # the ClientHello. Routes of both have dests and conditions on the destination only.
    protocol: NotRequired[Literal["http", "tcp", "sni"]]  # http


class Config(TypedDict):
    """All that one proxy serves."""

    node_id: str
    cluster: NotRequired[str]
    listeners: list[Listener]
    tables: list[RouteTable]
    clusters: list[Cluster]
    tls: list[TlsContext]
    warnings: NotRequired[list[str]]
