"""Counters, histograms and metric series (L1). One writer each (the worker of the row), so plain relaxed stores; summed on read."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:  # StatsRow.c: counters of a worker; names for people in segment.pyx (COUNTER_NAMES, same order)
    ST_CX_TOTAL = 0              # downstream connections accepted
    ST_CX_CLOSED
    ST_CX_OVERFLOW               # refused: the worker's connection cap
    ST_RQ_TOTAL                  # request heads read
    ST_RQ_DONE
    ST_RQ_BAD                    # refused by the parser (400, 414, 431, 501, 505, 417)
    ST_RQ_NO_ROUTE               # NR
    ST_RQ_NO_CLUSTER             # NC
    ST_RQ_NO_HEALTHY             # UH
    ST_RQ_OVERLOAD               # OM: memory or exchange cap
    ST_RQ_TIMEOUT                # UT
    ST_RQ_RETRY_REUSED           # repeated at once: the reused connection was already closed
    ST_RQ_RETRY
    ST_RQ_DIRECT                 # direct responses and redirects
    ST_RQ_DC                     # the client left before the end
    ST_RQ_UPSTREAM_RESET         # UC / UR
    ST_RQ_UPSTREAM_PROTOCOL      # UPE: garbage from upstream
    ST_RQ_UPSTREAM_TRUNCATED     # the upstream closed in the middle of a body
    ST_RQ_HEAD_TIMEOUT           # slow head (slowloris): 408
    ST_RQ_UPGRADE                # 101 tunnels
    ST_UP_CX_TOTAL               # upstream connections dialled
    ST_UP_CX_REUSED
    ST_UP_CX_FAIL                # UF
    ST_UP_CX_TIMEOUT
    ST_UP_CX_IDLE_CLOSED         # closed by the upstream while idle
    ST_UP_CX_IDLE_TIMEOUT        # closed by us: idle timeout
    ST_TLS_ACCEPT
    ST_TLS_ACCEPT_FAIL
    ST_TLS_ACCEPT_RESUMED
    ST_TLS_CONNECT
    ST_TLS_CONNECT_FAIL
    ST_TLS_CONNECT_RESUMED
    ST_TLS_PEER_CERT             # peer certificate refused
    ST_TLS_PEER_IDENTITY         # SPIFFE ID not expected here
    ST_TLS_PLAINTEXT_REFUSED     # plaintext on a STRICT listener
    ST_BYTES_RX                  # downstream
    ST_BYTES_TX
    ST_UP_BYTES_RX
    ST_UP_BYTES_TX
    ST_LOG_DROPPED               # ring full
    ST_SERIES_OVERFLOW           # counted into the overflow series
    ST_SNAP_SWITCH               # config generations taken up
    ST_SNAP_REFUSED
    ST_PAUSES                    # reads paused by back-pressure
    ST_POOL_FULL                 # an allocation refused at a cap
    ST_H2                        # 20 counters of HTTP/2: H2N_* of proto/h2_stream.pxd, in that order
    ST_H2_LAST = ST_H2 + 19
    ST_UP_STREAMS                # requests sent as streams of a shared HTTP/2 connection
    ST_UP_REFUSED                # REFUSED_STREAM, or above the last id of a GOAWAY: not seen by the upstream
    ST_RQ_GRPC
    ST_RQ_OVERFLOW               # UO: max_requests of the cluster
    ST_RQ_PENDING_OVERFLOW       # UO: too many wait for a connection, or one has for too long
    ST_UP_CX_OVERFLOW            # a request waits because no connection may be opened
    ST_RQ_RETRY_OVERFLOW         # a retry that the budget or max_retries did not allow
    ST_RQ_RETRY_GIVEN_UP         # ... that is not made because a hop further down has made them
    ST_FAULT_DELAYS              # requests that a fault has delayed
    ST_FAULT_ABORTS              # attempts that a fault has answered
    ST_OD_EJECTIONS              # outlier detection: endpoints ejected, probes that failed included ...
    ST_OD_5XX                    # ... by reason
    ST_OD_GATEWAY
    ST_OD_LOCAL
    ST_OD_OVERFLOW               # an ejection that max_percent did not allow
    ST_OD_PROBE_OK               # the one request after an ejection: the endpoint is back
    ST_OD_PROBE_FAIL             # ... or ejected again
    ST_RQ_REWRITE                # what uriRegexRewrite makes of the path is no path: 500
    ST_CORS_VALID                # requests of an origin that the route's corsPolicy allows
    ST_CORS_INVALID              # ... that it does not allow
    ST_CORS_PREFLIGHT            # preflights answered here
    ST_MIRROR                    # copies of requests that were sent
    ST_MIRROR_SKIPPED            # ... that were not: no cluster, its limit, memory, a body above the replay buffer or with trailers
    ST_MIRROR_FAILED             # ... that got no answer
    ST_RQ_LIMITED                # RL: a rate limit's bucket had no token
    ST_RL_EVICTED                # a bucket that was not full lost its place to another
    ST_RQ_SHED_MEMORY            # OM: refused because of the memory in use ...
    ST_RQ_SHED_ACTIVE            # ... of the requests in flight ...
    ST_RQ_SHED_LAG               # ... of how long connections wait for their turn
    ST_CX_SHED                   # clients told to leave (connection: close, GOAWAY) because of the memory in use
    ST_HC_ATTEMPT                # active health checks: made ...
    ST_HC_SUCCESS
    ST_HC_FAILURE                # ... failed, whatever the reason ...
    ST_HC_NETWORK                # ... without an answer that could be judged: no connection, no TLS, reset, too late, garbage
    ST_HC_UNHEALTHY              # endpoints that turned unhealthy
    ST_HC_HEALTHY                # ... and healthy
    ST_HC_DEFERRED               # looks at what is due that found too many checks in flight
    ST_OD_SUCCESS_RATE           # ejected by rates over an interval
    ST_OD_FAILURE_PERCENTAGE
    ST_RBAC_ALLOWED              # requests that the authorization policies of their listener let pass ...
    ST_RBAC_DENIED               # ... refused (403)
    ST_RBAC_SHADOW_ALLOWED       # what policies that are only tried would have let pass ...
    ST_RBAC_SHADOW_DENIED        # ... refused
    ST_RBAC_AUDITED              # an AUDIT policy fits
    ST_RBAC_PATH                 # refused (400): a path that cannot be judged
    ST_TCP_TOTAL                 # TCP sessions: begun ...
    ST_TCP_OPEN                  # ... connected to an upstream
    ST_TCP_DONE
    ST_TCP_NO_ROUTE              # NR, NC
    ST_TCP_NO_HEALTHY            # UH
    ST_TCP_OVERFLOW              # UO: maxConnections
    ST_TCP_OVERLOAD              # OM
    ST_TCP_CONNECT_FAIL          # UF: no endpoint could be reached
    ST_TCP_CONNECT_AGAIN         # dials after one that failed
    ST_TCP_DOWN_RESET            # broken off by the client ...
    ST_TCP_UP_RESET              # ... by the upstream
    ST_TCP_IDLE                  # ended because nothing moved
    ST_TCP_AGE                   # ended by maxConnectionDuration
    ST_TCP_HELLO_BAD             # TLS passthrough: no ClientHello, or none that can be read
    ST_TCP_HELLO_LATE            # ... not in time
    ST_TCP_SPLICED               # bytes that were not copied
    ST_RQ_CLIENT_RETRY           # requests that their client has repeated by itself after a failure (policy/repeat)
    ST_CX_CAPTURED               # connections that were redirected here from another address
    ST_CX_PORT_REFUSED           # ... inbound to a port that is not the application's, refused because the workload is STRICT
    ST_TCP_GUESS                 # addresses dialled before it was known what is spoken there ...
    ST_TCP_GUESS_DROPPED         # ... for nothing: it was HTTP, or TLS for another destination
    ST_N                         # must be last

cdef enum:
    HIST_BINS = 20               # upper bounds below, last is +Inf

# Duration bounds are Envoy's default buckets: 0.5 1 5 10 25 50 100 250 500 1000 2500 5000 10000 30000 60000 300000 600000 1800000
# 3600000 ms; hop bounds are 10 20 30 50 75 100 150 200 300 500 750 1000 1500 2000 3000 5000 10000 25000 100000 us; byte bounds are
# Envoy's default numbers too (0.5 1 5 10 ... bytes). The tables stand in stats.pyx; segment.pyx hands them to Python.

cdef struct Hist:                # 168 bytes
    uint64_t sum                 # us or bytes
    uint64_t bins[20]

cdef enum:  # SeriesKey.direction
    DIR_INBOUND = 0              # reporter="destination"
    DIR_OUTBOUND = 1             # reporter="source"
    DIR_GATEWAY = 2

cdef enum:  # SeriesKey.security
    SEC_NONE = 0
    SEC_MTLS = 1
    SEC_TLS = 2

cdef struct SeriesKey:           # 32 bytes, compared whole
    uint64_t cluster             # stable cluster id; 0 = none
    uint32_t endpoint            # endpoint cell; 0xffffffff = none
    uint32_t flags               # response flags, RF_* bits
    uint16_t status
    uint16_t peer                # slot in this worker's PeerTable
    uint8_t direction            # DIR_*
    uint8_t security             # SEC_*
    uint8_t protocol             # 0 http, 1 grpc, 2 tcp
    uint8_t used                 # 1: the slot is taken
    uint8_t grpc                 # gRPC status + 1; 0: none was seen
    uint8_t reserved[7]

cdef struct Series:              # 1024 bytes
    SeriesKey key
    uint64_t count               # of TCP: sessions that are over
    Hist duration                # us: request head read to answer's last byte
    Hist upstream                # us: request sent to first byte of the answer: the application's time
    Hist hop                     # us: what this hop added
    Hist rx_bytes                # request body + head
    Hist tx_bytes
    uint64_t opened              # of TCP: sessions that got a connection. Its sums of rx_bytes and tx_bytes grow while a session goes on.
    uint8_t reserved[136]

cdef struct StatsRow:            # 4096 bytes
    uint64_t c[512]

cdef struct SeriesTable:         # series lie dense, so that a reader touches (and thereby allocates) no page that holds none
    uint32_t n                   # s[0:n] are in use (release), the overflow slot s[SERIES_SLOTS - 1] not counted
    uint32_t overflowed          # 1: the overflow slot is in use
    uint32_t reserved[14]
    uint16_t index[2048]         # open addressing by key: 0 = empty, else position in s + 1
    Series s[1024]

cdef struct PeerTable:
    uint32_t n
    uint32_t reserved[15]
    char id[256][256]            # NUL-terminated SPIFFE ID; row 0 is ""

cdef inline void stat_inc(StatsRow *r, int cid) noexcept nogil:
    r.c[cid] += 1

cdef inline void stat_add(StatsRow *r, int cid, uint64_t n) noexcept nogil:
    r.c[cid] += n

cdef enum:  # response flags as bits; letters in segment.pyx (FLAG_NAMES) are Envoy's
    RF_UH = 1                    # no healthy upstream
    RF_UF = 2                    # upstream connection failure
    RF_UO = 4                    # upstream overflow
    RF_NR = 8                    # no route
    RF_NC = 16                   # no cluster
    RF_URX = 32                  # retry limit
    RF_DC = 64                   # downstream connection termination
    RF_UT = 128                  # upstream request timeout
    RF_UC = 256                  # upstream connection termination
    RF_UR = 512                  # upstream remote reset
    RF_LR = 1024                 # local reset
    RF_DPE = 2048                # downstream protocol error
    RF_UPE = 4096                # upstream protocol error
    RF_OM = 8192                 # overload manager
    RF_SI = 16384                # stream idle timeout
    RF_DT = 32768                # duration timeout (408 slow head)
    RF_UAEX = 65536              # unauthorized
    RF_DI = 131072               # delayed by a fault
    RF_FI = 262144               # answered by a fault
    RF_RL = 524288               # rate limited

cdef const uint64_t *hist_bounds(int which) noexcept nogil
"""The HIST_BINS - 1 upper bounds, inclusive. which: 0 durations in us, 1 hop in us, 2 bytes (0.5 stands as 0: bytes are whole)."""
cdef uint32_t hist_ms_bin(uint64_t us) noexcept nogil
cdef uint32_t hist_us_bin(uint64_t us) noexcept nogil
cdef uint32_t hist_bytes_bin(uint64_t n) noexcept nogil
cdef Series *series_get(SeriesTable *t, StatsRow *r, const SeriesKey *k) noexcept nogil
"""The slot for this key (open addressing), or the overflow slot (counted). Never NULL."""
cdef uint16_t peer_intern(PeerTable *t, const char *sid, uint32_t n) noexcept nogil
"""The slot of this identity; 0 for n == 0; the overflow slot when full."""
