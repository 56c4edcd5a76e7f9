"""One immutable generation of config (L1): flat arrays, offsets only. Written by shm/pack.pyx, checked by snap_check before it is published.

A pointer into a snapshot never survives a reactor turn. Strings are (offset, length) into the blob, offsets from the snapshot's base.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int32_t
from fastmesh._core.base.view cimport Slice

cdef enum:
    SNAP_MAGIC = 0x466d534e      # "FmSN"
    SNAP_VERSION = 5
    SNAP_NONE = 0xffffffff       # no index
    SNAP_MAX_PATTERN = 4096      # bytes of one regex
    SNAP_MAX_LABELS = 128        # labels of a wildcard host: more than a name can have
    SNAP_MAX_REGEXES = 4096      # patterns of one generation: each worker compiles them all (memory: policy/router.pyx)
    SNAP_MAX_NAME = 256          # bytes of a header name that config adds or removes
    SNAP_MAX_VALUE = 8192        # bytes of a header value, path or host that config writes into a head: well below MSG_MAX_HEAD
    SNAP_MAX_HOST = 253          # bytes of a host name (RFC 1035), port not included
    SNAP_MAX_WEIGHT = 1000000    # of one endpoint or destination
    SNAP_MAX_LEVELS = 16         # of one cluster: localities that shares are given to; by failover there are five at most
    MILLION = 1000000            # what parts per million are of
    SNAP_MAX_LENGTHS = 30        # lengths of prefixes that a virtual host is looked up by
    SNAP_MAX_TOTAL = 16777216    # cumulative weight of a cluster or route: products with it stay within 64 bits
    SNAP_MAX_LIMITS = 66         # rate limits of one action: one for all, one for each caller, 64 for callers that are named
    SNAP_MAX_OPS = 128           # header operations of one list: what an exchange keeps of them is counted in 32 bits, and a head has 160 fields
    SNAP_MAX_REFILL_S = 31536000 # a year: how long an empty bucket may take to be full again; products with it stay within 64 bits
    SNAP_NET = 18                # bytes of a network: 4 or 6, bits of the prefix, address in network order
    SNAP_MAX_RATE = 1000000      # tokens a second: a token is at least a microsecond, so that rounding costs a thousandth at the most

cdef struct SnapStr:
    uint32_t off
    uint32_t n

cdef struct SnapArr:             # an array section: offset of the first element and how many
    uint32_t off
    uint32_t n

cdef enum:  # SnapListener.kind
    L_GATEWAY = 0
    L_OUTBOUND = 1
    L_INBOUND = 2

cdef enum:  # SnapListener.tls_mode
    TLS_DISABLE = 0
    TLS_STRICT = 1               # TLS only; plaintext is refused
    TLS_PERMISSIVE = 2           # by the first byte

cdef enum:  # SnapListener.flags
    LF_HTTPS_REDIRECT = 1        # Gateway tls.httpsRedirect: 301 to https
    LF_TCP = 2                   # bytes, whatever they mean: proxy/tcp
    LF_SNI = 4                   # ... TLS that is not ended here: routed by the name in its ClientHello (with LF_TCP, without tls)
    LF_CAPTURED = 8              # connections are redirected to it: proxy/capture (L_OUTBOUND without tls, L_INBOUND)

cdef struct SnapListener:        # 64 bytes
    uint64_t id                  # hash of the name: the arbiter hands sockets to workers by it
    SnapStr name
    uint8_t kind                 # L_*
    uint8_t tls_mode             # TLS_*
    uint16_t port
    uint32_t flags               # LF_*
    uint32_t table               # index of the route table
    SnapArr tls                  # uint32 indexes of SnapTls; chosen by SNI, the first is the default
    uint32_t authz               # index of SnapAuthz, or SNAP_NONE: everything is allowed
    uint32_t tcp_table           # LF_CAPTURED: routes of what is not for `table`, by the address that was called and the name in a ClientHello
    uint16_t app_port            # LF_CAPTURED, L_INBOUND: what is called there is the application's; other ports are tcp_table's
    uint8_t reserved[18]

cdef struct SnapTable:           # 32 bytes: a route table
    SnapStr name
    uint32_t buckets             # power of two; exact and suffix hosts hash here
    uint32_t hosts_off           # SnapHost[buckets], open addressing
    uint32_t any_vhost           # vhost of "*", or SNAP_NONE
    uint32_t max_labels          # longest suffix chain to look for (0: no wildcard hosts)
    uint32_t flags               # reserved
    uint32_t reserved

cdef struct SnapHost:            # 24 bytes: a bucket; host lower-cased; "*.suffix" is stored as ".suffix" with wildcard=1
    uint64_t hash                # 0 = empty
    SnapStr host
    uint32_t vhost
    uint32_t wildcard

cdef struct SnapVhost:           # 40 bytes
    SnapStr name
    SnapArr routes               # SnapRoute, first match wins
    SnapArr paths                # SnapPath: buckets, a power of two; none: the routes are few, and looked at in order
    SnapArr lengths              # uint32: of prefixes, each once, ascending
    SnapArr others               # uint32: routes that no hash leads to (any path, regexes), ascending; as all lists of routes

cdef struct SnapPath:            # 16 bytes: a bucket: the routes of one path, or of one prefix
    uint64_t hash                # path_hash; 0 = empty
    SnapArr routes               # uint32: indexes within the virtual host's routes, ascending

cdef enum:  # path kinds and condition operators
    OP_ANY = 0                   # always
    OP_EXACT
    OP_PREFIX
    OP_SUFFIX
    OP_REGEX                     # whole-value match, RE2
    OP_PRESENT
    OP_PATH_PREFIX               # Gateway API PathPrefix: whole segments

cdef enum:  # SnapCond.on
    ON_METHOD = 0
    ON_HEADER
    ON_QUERY
    ON_AUTHORITY
    ON_SCHEME
    ON_PORT                      # listener port, number; of TCP: the port that the client called
    ON_DESTINATION               # TCP: the address that the client called is in one of the networks in value (SNAP_NET bytes each)

cdef enum:  # SnapCond.flags, SnapRoute.flags
    CF_NOT = 1
    CF_IGNORE_CASE = 2

cdef struct SnapCond:            # 32 bytes
    uint8_t on
    uint8_t op
    uint8_t flags                # CF_*
    uint8_t hid                  # H_* of a header name, 0 if not well known
    uint32_t regex               # index into regexes, or SNAP_NONE
    SnapStr name
    SnapStr value
    uint64_t number

cdef struct SnapRoute:           # 64 bytes
    uint8_t path_op              # OP_*
    uint8_t flags                # CF_IGNORE_CASE for the path
    uint16_t reserved0
    uint32_t regex
    SnapStr path
    SnapArr conds                # all must hold
    uint32_t action              # index of SnapAction
    uint32_t reserved1
    SnapStr name                 # for the access log
    uint8_t reserved[24]

cdef enum:  # SnapAction.kind
    ACT_FORWARD = 0
    ACT_REDIRECT
    ACT_DIRECT

cdef enum:  # SnapAction.rewrite_op
    RW_NONE = 0
    RW_PREFIX                    # replace the matched prefix
    RW_FULL                      # replace the whole path
    RW_REGEX                     # replace each match of rewrite_regex in the path

cdef enum:  # SnapHdrOp.op
    HOP_SET = 0
    HOP_ADD
    HOP_REMOVE

cdef struct SnapHdrOp:           # 24 bytes
    uint8_t op
    uint8_t hid
    uint16_t reserved
    uint32_t reserved1
    SnapStr name
    SnapStr value

cdef struct SnapDest:            # 32 bytes
    uint32_t cluster             # index of SnapCluster, or SNAP_NONE: unknown (503 NC)
    uint32_t weight              # cumulative, 1..total
    SnapArr request_ops          # SnapHdrOp
    SnapArr response_ops
    uint32_t reserved[2]

cdef struct SnapMirror:          # 8 bytes: where copies of a request go
    uint32_t cluster             # index of SnapCluster, or SNAP_NONE: unknown
    uint32_t ppm                 # of the requests, in parts per million

cdef struct SnapOrigin:          # 16 bytes: who may ask across origins
    uint8_t op                   # OP_ANY, OP_EXACT, OP_PREFIX, OP_REGEX
    uint8_t reserved[3]
    uint32_t regex               # index into regexes, or SNAP_NONE
    SnapStr value

cdef enum:  # SnapCors.flags
    CO_CREDENTIALS = 1           # access-control-allow-credentials: true
    CO_FORWARD = 2               # preflights of other origins go on to the upstream

cdef struct SnapCors:            # 64 bytes: Fetch standard, 3.2
    SnapArr origins              # SnapOrigin
    SnapStr methods              # what the header fields say, as they stand there; empty: the field is not sent
    SnapStr headers
    SnapStr expose
    SnapStr max_age              # seconds
    uint32_t flags               # CO_*
    uint32_t reserved[5]

cdef enum:  # SnapLimit.per
    PER_ROUTE = 0                # one bucket for all
    PER_IDENTITY                 # one for each caller: SPIFFE ID of the peer, else its address
    PER_NAMED                    # one for the caller `who`, in the place of PER_IDENTITY's; these come first

cdef struct SnapLimit:           # 48 bytes: a token bucket, shared by all workers
    uint64_t id                  # hash of what it belongs to and says: stable over generations
    SnapStr name                 # for x-ratelimit-limit and counters
    uint32_t most                # tokens that it holds at most: what may come at once
    uint32_t fill                # tokens that it gains ...
    uint32_t fill_ms             # ... in so many milliseconds
    uint32_t per                 # PER_*
    uint64_t who                 # PER_NAMED: hash of the SPIFFE ID
    uint32_t reserved[2]

cdef struct SnapAction:          # 192 bytes
    uint8_t kind                 # ACT_*
    uint8_t rewrite_op           # RW_*
    uint16_t status              # redirect or direct response
    uint32_t total_weight
    SnapArr dests
    SnapArr request_ops
    SnapArr response_ops
    SnapStr rewrite_path
    SnapStr rewrite_host
    SnapStr redirect_scheme      # empty: keep
    SnapStr redirect_host        # empty: keep
    SnapStr redirect_path        # empty: keep; with rewrite_op RW_PREFIX it replaces the prefix
    uint32_t redirect_port       # 0: derive
    SnapStr body                 # direct response
    uint32_t timeout_ms          # whole request; 0: none
    uint32_t per_try_timeout_ms
    uint32_t retries             # attempts beyond the first
    uint32_t retry_on            # RO_* bits
    SnapArr retry_statuses       # uint32, with RO_STATUSES
    uint32_t backoff_base_ms     # full jitter: attempt n waits up to (2^n - 1) * base, at most backoff_most_ms
    uint32_t backoff_most_ms
    uint32_t flags               # AF_*
    uint32_t delay_ppm           # fault injection: how many requests, in parts per million, wait ...
    uint32_t delay_ms            # ... so long first
    uint32_t abort_ppm           # ... and how many are answered ...
    uint16_t abort_status        # ... with this status
    uint8_t abort_grpc           # ... or this gRPC status + 1 (0: none)
    uint8_t reserved0
    uint32_t rewrite_regex       # index into regexes, or SNAP_NONE: what rewrite_path replaces (\\1 is a group)
    SnapArr mirrors              # SnapMirror
    uint32_t cors                # index of SnapCors, or SNAP_NONE
    SnapArr limits               # SnapLimit: each must have a token
    uint8_t reserved[32]

cdef enum:  # SnapAction.flags
    AF_RETRY_ANYWHERE = 1        # retryRemoteLocalities
    AF_RETRY_SAME = 2            # retryIgnorePreviousHosts: false

cdef enum:  # SnapAction.retry_on
    RO_CONNECT_FAILURE = 1
    RO_RESET_BEFORE_REQUEST = 2
    RO_5XX = 4
    RO_GATEWAY_ERROR = 8
    RO_RESET = 16
    RO_REFUSED_STREAM = 32
    RO_RETRIABLE_4XX = 64
    RO_UNAVAILABLE = 128
    RO_CANCELLED = 256           # gRPC statuses, these and RO_UNAVAILABLE
    RO_DEADLINE_EXCEEDED = 512
    RO_INTERNAL = 1024
    RO_RESOURCE_EXHAUSTED = 2048
    RO_STATUSES = 4096           # retriable-status-codes: those of retry_statuses
    RO_RATELIMITED = 8192        # envoy-ratelimited: x-envoy-ratelimited in the answer
    RO_LAST = RO_RATELIMITED

cdef enum:  # SnapCluster.lb
    LB_ROUND_ROBIN = 0
    LB_LEAST_REQUEST
    LB_RANDOM
    LB_PEAK_EWMA
    LB_RING_HASH
    LB_MAGLEV

cdef struct SnapOutlier:         # 64 bytes: when an endpoint is ejected; a count of 0 is no reason
    uint32_t consecutive_5xx
    uint32_t consecutive_gateway
    uint32_t consecutive_local   # with OF_SPLIT only: connection failures and timeouts, which else count as 5xx
    uint32_t interval_ms
    uint32_t base_ms             # of an ejection; times how often in a row
    uint32_t most_ms
    uint8_t max_percent          # of the cluster's endpoints; one may always be ejected
    uint8_t flags                # OF_*
    uint16_t reserved0
    uint32_t rate_hosts          # success rate: at least so many endpoints ...
    uint32_t rate_volume         # ... with so many requests in the interval each ...
    uint32_t rate_stdev_milli    # ... and below mean - stdev * this / 1000 (0: off)
    uint32_t failure_percent     # failure percentage from which on (0: off)
    uint32_t failure_hosts
    uint32_t failure_volume
    uint32_t reserved[3]

cdef enum:  # SnapOutlier.flags
    OF_ON = 1                    # an outlierDetection is there
    OF_SPLIT = 2                 # splitExternalLocalOriginErrors

cdef enum:  # SnapHealth.kind
    HK_NONE = 0
    HK_HTTP
    HK_GRPC                      # grpc.health.v1.Health/Check
    HK_TCP                       # a connection can be made

cdef struct SnapHealth:          # 64 bytes: active health checks of each endpoint
    uint8_t kind                 # HK_*
    uint8_t flags                # reserved
    uint16_t port                # of the check; 0: the endpoint's
    uint32_t interval_ms
    uint32_t jitter_percent      # of the interval: up to so much later
    uint32_t timeout_ms
    uint32_t unhealthy           # failures in a row that make a healthy endpoint unhealthy
    uint32_t healthy             # successes in a row that make an unhealthy one healthy
    SnapStr path                 # HK_HTTP
    SnapStr host                 # :authority; empty: the cluster's service
    SnapStr service              # HK_GRPC: name that is asked about; may be empty
    SnapArr expected             # uint32 pairs, from and to: statuses that are a success; empty: 200
    uint8_t reserved[8]

cdef enum:  # SnapCluster.hash_on
    HASH_NONE = 0
    HASH_HEADER
    HASH_COOKIE
    HASH_SOURCE
    HASH_QUERY

cdef enum:  # SnapCluster.hash_ttl_s
    HASH_NO_COOKIE = 0xffffffff  # none is made

cdef struct SnapLevel:           # 32 bytes: a run of a cluster's endpoints that are equally near
    uint32_t first               # within the cluster's endpoints: where the level before ends
    uint32_t n                   # at least one
    uint32_t total_weight
    uint32_t rr_stride           # as SnapCluster's
    uint32_t share               # percent of the requests, of this one and of all others; 0: the nearest that can take them does
    uint32_t reserved
    SnapArr hash_table           # as SnapCluster's; places within the level

cdef struct SnapCluster:         # 320 bytes; the array is sorted by id
    uint64_t id                  # FNV-1a 64 of the name: stable over generations
    SnapStr name                 # outbound|9080|v1|reviews.default.svc.cluster.local
    SnapStr service              # destination_service label
    SnapArr endpoints            # SnapEndpoint
    uint32_t total_weight        # of the endpoints; equal weights: flags has CL_EQUAL
    uint8_t lb                   # LB_*
    uint8_t flags                # CL_*
    uint16_t reserved0
    uint32_t connect_timeout_ms
    uint32_t idle_timeout_ms     # of pooled connections
    uint32_t max_requests_per_connection   # 0: no limit
    uint32_t max_connections     # of all workers, as all four limits; 0: no limit
    uint32_t tls                 # index of SnapTls for endpoints with EP_TLS, or SNAP_NONE
    SnapStr sni
    SnapArr sans                 # SnapStr: peer identities that are accepted; empty with CL_VERIFY_SAN: none is
    uint64_t tls_policy          # hash of context, sni, sans: a pooled connection is used only under the policy it was made with
    uint32_t rr_stride           # ROUND_ROBIN with weights: coprime to total_weight, about its golden section; see policy/lb.pyx
    uint32_t max_streams         # of one HTTP/2 connection; 0: what the peer allows
    uint32_t cell                # index into ClCell
    uint32_t max_pending         # requests that wait for a connection
    uint32_t max_requests        # in flight
    uint32_t max_retries         # attempts beyond the first, in flight or in back-off
    uint32_t budget_ppm          # ... or this share of the requests in flight, in parts per million (0: no budget) ...
    uint32_t budget_least        # ... and always so many
    uint32_t panic_percent       # with fewer healthy endpoints all are used (minHealthPercent); 0: never
    SnapOutlier outlier
    uint8_t hash_on              # HASH_*: what LB_RING_HASH and LB_MAGLEV go by
    uint8_t reserved1[3]
    uint32_t hash_ttl_s          # of a cookie that the proxy makes; 0: a session's; or HASH_NO_COOKIE
    SnapStr hash_name            # header, cookie or query parameter
    SnapStr hash_path            # of a cookie
    SnapArr hash_table           # uint32: see shm/hashtab.pxd
    uint32_t warm_ms             # slow start of a new endpoint; 0: none
    uint16_t warm_least_percent
    uint16_t warm_aggression_centi
    uint32_t decay_ms            # LB_PEAK_EWMA
    SnapArr levels               # SnapLevel, nearest first; empty: one level. With some, weights add up and hash tables are within each.
    uint32_t keepalive_time_s    # TCP keep-alive; 0: CL_KEEPALIVE off, or the system's value, as for the next two
    uint32_t keepalive_interval_s
    uint32_t keepalive_probes
    uint32_t max_age_ms          # a connection takes no request after so long (maxConnectionDuration); 0: no limit
    SnapHealth health

cdef enum:  # SnapCluster.flags
    CL_EQUAL = 1
    CL_VERIFY_SAN = 2
    CL_H2 = 4                    # endpoints without EP_TLS speak HTTP/2 from the first byte (with TLS, ALPN decides)
    CL_AS_CLIENT = 8             # ... or whatever the client of this request speaks
    CL_KEEPALIVE = 16            # TCP keep-alive on connections to the endpoints
    CL_ORIGINAL_DST = 32         # its one endpoint stands for whatever address the client has called

cdef enum:  # SnapEndpoint.flags
    EP_TLS = 1

cdef struct SnapEndpoint:        # 64 bytes
    uint8_t family               # 4 or 6
    uint8_t flags                # EP_*
    uint16_t port                # host order
    uint32_t cell                # index into EpCell
    uint8_t addr[16]             # network order
    uint32_t weight
    uint32_t upto                # cumulative weight within its cluster or level, this one included
    SnapStr text                 # "127.0.0.1:9080"
    SnapStr workload
    uint64_t tag                 # same as EpCell.tag
    uint8_t reserved[8]

cdef enum:  # SnapTls.flags
    TF_SERVER = 1
    TF_VERIFY = 2                # require and verify the peer's certificate
    TF_TICKETS = 4               # issue session tickets

cdef struct SnapTls:             # 96 bytes
    uint64_t key                 # hash of the content: a worker rebuilds its SSL_CTX only when it changes
    uint32_t flags               # TF_*
    uint32_t min_version         # 0x0303 or 0x0304
    SnapStr name
    SnapStr cert                 # PEM chain, or empty
    SnapStr private_key          # PEM
    SnapStr ca                   # PEM bundle, or empty: the system's roots (client side)
    SnapStr alpn                 # wire form: length-prefixed names
    SnapStr trust_domain         # peer's SPIFFE ID must be of this domain; empty: any
    SnapArr hosts                # SnapStr: SNI names, exact or "*.suffix", lower-cased; empty: any
    SnapStr denied               # SPIFFE IDs that are refused, each with a line end behind it; empty: none
    uint8_t reserved[16]

cdef struct SnapHeader:          # 256 bytes, at the base
    uint32_t magic
    uint32_t version
    uint64_t generation
    uint64_t bytes               # size of the whole snapshot
    uint64_t checksum            # FNV-1a 64 over everything behind this header
    SnapArr listeners
    SnapArr tables
    SnapArr vhosts
    SnapArr routes
    SnapArr conds
    SnapArr actions
    SnapArr dests
    SnapArr hdrops
    SnapArr clusters
    SnapArr endpoints
    SnapArr tls
    SnapArr strs                 # SnapStr arrays that others point into
    SnapArr u32s                 # uint32 arrays that others point into
    SnapArr regexes              # SnapStr: patterns; compiled once a generation by each worker
    SnapArr mirrors              # SnapMirror
    SnapArr cors                 # SnapCors
    SnapArr origins              # SnapOrigin
    SnapArr limits               # SnapLimit
    SnapArr levels               # SnapLevel
    SnapArr paths                # SnapPath
    SnapArr authz                # SnapAuthz
    SnapArr authz_dims           # SnapAuthzDim
    SnapArr authz_keys           # SnapAuthzKey
    SnapStr node_id              # e.g. "reviews-v2-1.default"
    SnapStr service_cluster
    uint8_t reserved[24]

cdef struct Snap:
    # a worker's view: borrowed, valid within one reactor turn
    const char *base
    const SnapHeader *h
    uint64_t generation

cdef inline Slice snap_str(const Snap *s, SnapStr v) noexcept nogil:
    cdef Slice r
    r.p = s.base + v.off
    r.n = v.n
    return r

cdef inline const void *snap_at(const Snap *s, uint32_t off) noexcept nogil:
    return s.base + off

cdef inline uint64_t host_hash_step(uint64_t h, uint8_t c) noexcept nogil:
    """Host names are hashed from their last byte to the first, so that one pass yields the hash of each suffix too."""
    return (h ^ c) * <uint64_t>0x100000001b3

cdef inline uint64_t host_hash(const char *p, uint32_t n) noexcept nogil:
    """The hash of SnapHost: never 0 (an empty bucket)."""
    cdef uint64_t h = <uint64_t>0xcbf29ce484222325
    while n > 0:
        n -= 1
        h = host_hash_step(h, <uint8_t>p[n])
    return host_hash_end(h)

cdef inline uint64_t host_hash_end(uint64_t h) noexcept nogil:
    # the low bits choose the bucket: fold the better mixed high ones in
    h ^= h >> 29
    return h if h != 0 else 1

cdef enum:
    PATH_HASH = 0x1b873593       # what a path's hash begins with

cdef inline uint64_t path_hash_step(uint64_t h, uint8_t c) noexcept nogil:
    """Paths are hashed from their first byte on, in lower case, so that one pass yields the hash of each prefix too."""
    return (h ^ (c | 32 if 65 <= c <= 90 else c)) * <uint64_t>0x100000001b3

cdef inline uint64_t path_hash_end(uint64_t h, bint prefix) noexcept nogil:
    """Never 0 (an empty bucket)."""
    if prefix:
        h = ~h
    h ^= h >> 29
    return h if h != 0 else 1

cdef inline uint64_t path_hash(const char *p, uint32_t n, bint prefix) noexcept nogil:
    """The hash of SnapPath: of a path, or of a prefix of paths."""
    cdef uint64_t h = PATH_HASH
    cdef uint32_t i
    for i in range(n):
        h = path_hash_step(h, <uint8_t>p[i])
    return path_hash_end(h, prefix)

cdef int snap_check(const char *base, uint64_t n) noexcept nogil
"""FM_OK when every offset, count, index and enum lies within bounds and the checksum holds; else FM_ESNAP. Reads only base[0:n].
After it no reader needs a bounds check."""

cdef struct SnapFault:
    # what snap_fault found: static texts
    const char *section
    uint32_t index               # of the element in its section
    const char *what

cdef int snap_fault(const char *base, uint64_t n, SnapFault *why) noexcept nogil
"""snap_check that says where."""

cdef int snap_open(Snap *s, const char *base) noexcept nogil
cdef const SnapCluster *snap_cluster(const Snap *s, uint64_t cid) noexcept nogil
"""By stable id (binary search), or NULL."""
cdef const SnapListener *snap_listener(const Snap *s, uint64_t lid) noexcept nogil
cdef uint64_t fnv64(const char *p, size_t n) noexcept nogil
