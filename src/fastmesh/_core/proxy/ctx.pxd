"""What a worker owns (L3): Worker, Exchange and the codecs' state, and the ops between them. Types only.

An Exchange is one request and its answer. It speaks to its downstream codec through DownOps and to its upstream codec through UpOps, and
both codecs report to it through the functions of exchange.pxd: which HTTP version either side speaks is nobody else's business.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmesh._core.base.buf cimport Block
from fastmesh._core.base.pool cimport Pool
from fastmesh._core.base.timer cimport Timer
from fastmesh._core.base.view cimport Slice
from fastmesh._core.net.conn cimport Conn, ConnOps
from fastmesh._core.net.reactor cimport Reactor, Source, Task
from fastmesh._core.net.sock cimport Addr
from fastmesh._core.net.splice cimport Pipe, PipePool
from fastmesh._core.net.tls cimport Tls
from fastmesh._core.net.tls_ctx cimport TlsCtx
from fastmesh._core.policy.authz cimport AuthzVerdict
from fastmesh._core.policy.lb_level cimport LevelShares
from fastmesh._core.proto.h1_body cimport H1Body
from fastmesh._core.proto.h2_stream cimport H2, H2Ops, H2Stream
from fastmesh._core.proto.msg cimport Hdr, Msg
from fastmesh._core.shm.segment cimport SegMap
from fastmesh._core.shm.snapshot cimport Snap

cdef enum:
    MAX_LISTENERS = 64           # of one proxy
    TLS_PER_LISTENER = 64        # certificates that a listener chooses from by SNI
    MAX_TLS = 256                # TLS contexts of one worker
    HBUF_BYTES = 98304           # rewritten target, x-forwarded-for, ids: what one head can make
    REPLAY_BYTES = 65536         # request bytes kept so that a request can be sent again
    MOVES_MOST = 16              # times that a request moves on at once because a connection leaves by GOAWAY; then it is a retry as any
    MIRRORS_MOST = 4             # copies of one request
    TRIED_MOST = 8               # endpoints that an exchange remembers to have tried
    WS_KEY_BYTES = 24            # base64 of 16 random bytes (RFC 6455 4.1)
    ACCEPT_BYTES = 28            # base64 of a SHA-1 (RFC 6455 4.2.2)
    SPOKEN = 1024                # addresses of which a worker remembers who speaks first; a power of two

cdef struct Options:             # limits that can be set (worker.pyx: OPTIONS has names, defaults, reasons)
    uint32_t max_connections
    uint32_t max_exchanges
    uint64_t max_memory
    uint32_t idle_timeout_ms
    uint32_t header_timeout_ms
    uint32_t stream_idle_timeout_ms
    uint32_t handshake_timeout_ms
    uint32_t drain_idle_ms
    uint32_t config_wait_ms
    uint32_t shed_lag_ms
    uint32_t accept_batch

cdef struct ListenerState:
    Source src
    Worker *w
    uint64_t id
    uint32_t kind                # L_*
    uint32_t flags               # LF_*
    uint32_t table               # index in the current snapshot, or SNAP_NONE: not in this config
    uint32_t tcp_table           # LF_CAPTURED: as SnapListener's
    uint32_t app_port
    uint32_t authz               # ... of its SnapAuthz, or SNAP_NONE
    uint32_t tls_mode
    uint32_t port
    uint32_t ntls
    TlsCtx *tls[64]              # borrowed from Worker.tls; NULL behind ntls
    Task task                    # accept on
    Timer retry                  # after running out of descriptors

cdef struct UpPool:              # one endpoint's connections
    H1c *idle                    # HTTP/1: idle ones, newest first
    H1c *oldest                  # the last of them
    H2c *shared                  # HTTP/2, or being dialled and not decided yet: all that take requests
    uint64_t tag                 # SnapEndpoint.tag
    uint64_t h1_policy           # tls_policy under which it chose HTTP/1.1 although HTTP/2 was offered; 0: not seen
    uint32_t count               # connections of this endpoint, in use and idle
    uint32_t nidle
    uint32_t most_streams        # what its last SETTINGS allowed on a connection; 0: not seen
    uint32_t unlisted            # scratch of upstream_sweep
    uint32_t keep_ms             # the shortest time after which this endpoint closed an idle connection; 0: not seen
    uint32_t kept_ms             # the longest time after which one was seen to be open still, since then
    uint32_t avoided             # HTTP/2: idle connections that were left alone because of keep_ms
    Exchange *waiting            # for a connection that may not be opened (maxConnections), oldest first
    Exchange *waiting_last
    UpPool *next_serve           # Worker.serve: one of its connections is gone, and somebody waits
    uint32_t serving             # it is in that list

cdef struct Worker:
    Reactor r
    SegMap seg
    Snap snap                    # valid within this turn
    Options opt
    uint64_t rng
    uint32_t nlisteners
    ListenerState listeners[64]
    Conn *asking                 # the connection that the head at hand came by; NULL: a rehearsal ...
    Slice claimed                # ... by this SPIFFE ID
    AuthzVerdict verdict         # of the head at hand, where its listener has policies
    uint32_t ntls
    TlsCtx *tls[256]             # of the current generation, by SnapTls index, referenced
    uint32_t tls_fresh           # of these: made with this generation
    UpPool *pools                # [EP_CELLS]
    uint32_t npools              # above this index none has been used yet
    uint32_t *rr                 # [EP_CELLS]
    uint64_t *dice               # [CL_CELLS]: LbView.dice
    LevelShares *shares          # [CL_CELLS]
    Pool exchanges
    Pool downs                   # H1s
    Pool h2_downs                # H2s
    Pool ups                     # H1c
    Pool h2_ups                  # H2c
    Pool streams                 # H2Stream, of both sides
    Exchange *dead_ex
    Down *dead_down
    H1c *dead_up
    H2c *dead_h2_up
    Down *downs_head             # all downstream connections
    Msg req                      # the head that is being read; scratch within a turn
    Msg resp
    Msg again                    # a kept request head that is sent once more
    char *hbuf                   # header values made for the head at hand: HBUF_BYTES, reused for each head
    uint32_t hused
    char *arena                  # H2_ARENA bytes: strings of the HTTP/2 head at hand
    uint32_t listening           # connections are accepted
    uint32_t draining
    uint64_t drain_deadline_ms
    uint64_t drain_idle_ms       # from when on idle connections are closed
    uint64_t refused_gen
    uint64_t date_s
    char date[32]                # "Mon, 23 Nov 2026 07:34:57 GMT"
    Source wake
    Timer drain_timer
    Timer first_timer            # ends the wait for the first config
    ListenerState unconfigured   # stands for a listener that no config speaks of: nothing that comes by it is ever routed
    const DownOps *h1_down
    const DownOps *h2_down
    const UpOps *h1_up
    const UpOps *h2_up
    const UpOps *h2_wait         # of an exchange whose connection is being dialled
    const UpOps *pool_wait       # of one that waits in UpPool.waiting
    UpPool *serve                # pools in which somebody may be served, at the end of the turn
    Task serve_task
    const ConnOps *up_conn_ops
    const ConnOps *h2_conn_ops   # of an H2c
    const ConnOps *down_conn_ops
    Source probe                 # an event of our own, to see how long events wait (proxy/overload)
    uint64_t probe_ns            # when it was sent; 0: none is under way
    uint64_t probe_next_ms
    uint64_t lag_until_ms        # how long what the last ones showed is believed
    uint32_t lag_over            # probes in a row that waited for longer than shed_lag_ms
    Pool checks                  # HealthCheck: active health checks in flight (proxy/healthcheck)
    HealthCheck *checking
    HealthCheck *dead_check
    uint32_t *checked            # [CL_CELLS]: indexes of this generation's clusters that have health checks
    uint32_t nchecked
    uint32_t check_from          # which of their endpoints is looked at first: where there was no room the last time
    uint64_t check_ms            # when check_timer fires
    Timer check_timer
    Pool tcps                    # Tcp
    const ConnOps *tcp_down_ops
    const ConnOps *tcp_up_ops
    PipePool pipes
    uint64_t spoken[1024]        # SPOKEN: who speaks first at the addresses that were called last (proxy/capture)

cdef enum:  # Exchange.phase, in order; a retry goes back to PICK
    PH_HEAD = 0                  # the request head is being judged
    PH_PICK
    PH_CONNECT
    PH_SEND                      # the request goes out; nothing of an answer yet
    PH_RESP                      # the answer's head has been read
    PH_DONE

cdef enum:  # Exchange.flags
    XF_REQ_END = 1               # the request is read to its end
    XF_RESP_STARTED = 2          # bytes of a final answer went downstream
    XF_RESP_END = 4
    XF_REUSED = 8                # sent on a connection that had been used before
    XF_REPLAYABLE = 16           # ex.req and ex.body hold everything that was sent
    XF_UPGRADE = 32              # the request asked for an upgrade
    XF_TUNNEL = 64
    XF_HEAD_SENT = 128
    XF_JUDGED = 256              # this attempt has a result (EpShard.requests) ...
    XF_CHUNKED_REQ = 512
    XF_FAILED = 1024             # ... and it was a failure
    XF_LOG = 4096
    XF_IDEMPOTENT = 8192         # RFC 9110 9.2.2: may be repeated though the upstream may have seen it
    XF_GRPC = 16384              # a gRPC call
    XF_GRPC_TIMEOUT = 32768      # ... with a deadline of its own
    XF_PENDING = 65536           # counted as waiting for a connection
    XF_RETRYING = 131072         # counted as a retry
    XF_PROBE = 2097152           # its result decides whether an ejected endpoint is back
    XF_HASHED = 1048576          # hash_key is set
    XF_SHADOW = 4194304          # a mirrored copy: nobody waits for its answer
    XF_CALLED = 16777216         # its authority is the address that its client has called: there it goes
    XF_REHEARSED = 8388608       # it is only asked what would become of it (proxy/rehearse)

cdef enum:  # authz of an Exchange and of a Tcp
    AU_AUDITED = 1               # an AUDIT policy fits
    AU_DRY_ALLOWED = 2           # what policies that are only tried would have said
    AU_DRY_DENIED = 4

cdef struct DownOps:             # what an exchange asks of its client's side
    int (*head)(Exchange *ex, Msg *m) noexcept nogil
    # ^ Send a response head (1xx too). m.body says how the body will come.
    int (*data)(Exchange *ex, const Slice *v, int n) noexcept nogil
    int (*end)(Exchange *ex, const Hdr *trailers, int n) noexcept nogil
    void (*abort)(Exchange *ex) noexcept nogil
    # ^ The answer cannot be completed: the client must see that (HTTP/2: RST_STREAM with ex.h2_error).
    void (*resume)(Exchange *ex) noexcept nogil
    # ^ The request body may flow (again).
    bint (*congested)(Exchange *ex) noexcept nogil
    # ^ It takes no more of the answer for now; uops.resume follows when it does.
    void (*moved)(Exchange *ex) noexcept nogil
    # ^ Something of the answer came: the client's side is not idle.
    void (*flush)(Exchange *ex) noexcept nogil

cdef struct UpOps:               # what an exchange asks of its upstream's side; only while ex.up is not NULL
    int (*head)(Exchange *ex, Msg *m, bint end) noexcept nogil
    # ^ Send the request head; end: no body follows. FM_OK, or FM_EHEAD, FM_ENOMEM: the exchange answers.
    int (*data)(Exchange *ex, const Slice *v, int n) noexcept nogil
    int (*end)(Exchange *ex, const Hdr *trailers, int n) noexcept nogil
    void (*abort)(Exchange *ex) noexcept nogil
    # ^ Let go of the upstream: ex.up is NULL afterwards (HTTP/1 closes the connection, HTTP/2 resets the stream with ex.h2_error).
    void (*resume)(Exchange *ex) noexcept nogil
    # ^ The answer's body may flow (again).
    bint (*congested)(Exchange *ex) noexcept nogil
    # ^ It takes no more of the request for now; dops.resume follows when it does.
    bint (*unseen)(Exchange *ex) noexcept nogil
    # ^ The other side is known not to have seen this request: it may be repeated whatever it is.
    void (*flush)(Exchange *ex) noexcept nogil

cdef struct Plan:                # what the route said, copied
    uint64_t cluster             # stable id
    uint32_t timeout_ms
    uint32_t per_try_timeout_ms
    uint32_t retries
    uint32_t retry_on
    uint32_t backoff_base_ms
    uint32_t backoff_most_ms
    uint32_t decay_ms            # of the cluster's LB_PEAK_EWMA; 0: nothing is learnt (proxy/learn)
    bint watched                 # the cluster has outlier detection
    uint32_t delay_ppm           # faults (proxy/faults)
    uint32_t delay_ms
    uint32_t abort_ppm
    uint16_t abort_status
    uint16_t abort_grpc          # gRPC status + 1; 0: none
    uint32_t flags               # AF_*
    uint16_t nmirrors            # copies of this request that are to be sent
    uint64_t mirrors[4]          # MIRRORS_MOST: stable ids of their clusters
    uint16_t nstatuses
    uint16_t statuses[16]        # RETRY_STATUSES

cdef struct Limited:             # what the tightest of the route's rate limits said (proxy/limits); most 0: it has none
    uint32_t most
    uint32_t left                # tokens
    uint32_t full_s              # seconds until all are there again
    uint32_t wait_s              # ... until there is one; 0: the request has got one

cdef struct Exchange:
    Worker *w
    Exchange *next_dead
    Exchange *wait_next          # H2c.waiting, UpPool.waiting
    Exchange *wait_prev
    void *down                   # the codec's: H1s, or a stream; NULL once the client is gone
    Tls *tls                     # of the client's connection, while the head is judged and no longer; NULL: none
    void *up                     # H1c, a stream, or the H2c that is being dialled; NULL: none
    const DownOps *dops
    const UpOps *uops            # of `up`
    Block *req                   # the request head (msg_keep), until it cannot be asked for again
    Block *body                  # ... and its body so far, while XF_REPLAYABLE
    Block *ops                   # response header operations, copied
    Block *logb                  # strings for the access log
    uint32_t flags
    uint8_t phase
    uint8_t method
    uint8_t minor
    uint8_t direction            # DIR_*
    uint8_t security             # SEC_*
    uint8_t tries                # attempts begun
    uint8_t moves                # immediate repeats of what no upstream has looked at
    uint8_t grpc                 # gRPC status of the answer + 1; 0: none was seen
    uint8_t ntried               # of tried
    uint8_t authz                # AU_*
    uint16_t peer                # PeerTable slot
    uint16_t status
    uint32_t rf                  # RF_*
    uint32_t h2_error            # what an aborted stream of the other side is reset with; 0: CANCEL upstream, INTERNAL_ERROR downstream
    uint32_t cell                # endpoint cell, SNAP_NONE
    uint32_t tried[8]            # TRIED_MOST: cells of the endpoints of earlier attempts, the last one first, each once
    uint32_t cluster_cell        # where it is counted (policy/breaker), SNAP_NONE
    uint64_t hash_key            # of consistent hashing (proxy/hashkey), with XF_HASHED
    uint64_t repeat_key          # by which a failure is remembered (policy/repeat); 0: by none
    const char *details          # RESPONSE_CODE_DETAILS, a literal
    Limited limit
    Plan plan
    Timer timer                  # request timeout, or the back-off before a retry
    Timer try_timer              # per-try timeout
    uint64_t deadline_ms         # of the whole request; 0: none
    uint64_t t_start             # ns: request head read
    uint64_t t_sent
    uint64_t t_first
    uint64_t t_relay             # ns spent here on the answer: from its head read to it written
    uint64_t up_us
    uint64_t rx_bytes            # request body
    uint64_t tx_bytes            # response body
    uint64_t head_rx
    uint16_t log_n[11]
    uint8_t trace_id[16]
    char ws_key[24]              # Sec-WebSocket-Key that was made for a client's extended CONNECT
    char accept[28]              # Sec-WebSocket-Accept of an upgrade that goes on as an extended CONNECT
    char timeout_text[12]        # the grpc-timeout that this attempt is sent with
    char budget_text[24]         # ... and its x-envoy-expected-rq-timeout-ms
    char deadline_text[16]       # ... and its x-fastmesh-deadline
    char attempt_text[4]         # ... and its x-envoy-attempt-count
    Addr peer_addr               # the downstream peer
    Addr upstream_addr           # of the endpoint in use, or the last one
    Addr called                  # Conn.called of the downstream connection

cdef enum:  # H1s.state
    S_HEAD = 0                   # between requests, or in a head
    S_BODY                       # the request's body
    S_WAIT                       # request read, answer outstanding
    S_TUNNEL
    S_GONE

cdef enum:  # H1s.out: framing of the answer towards the client
    OUT_NONE = 0
    OUT_LENGTH
    OUT_CHUNKED
    OUT_CLOSE

cdef enum:  # Down.version
    DOWN_H1 = 1
    DOWN_H2 = 2
    DOWN_TCP = 3

cdef struct Down:                # what every downstream connection is: the first members of H1s and H2s (proxy/down.pyx)
    Worker *w
    Conn *conn
    Down *next                   # Worker.downs_head
    Down *prev
    Down *next_dead
    ListenerState *listener
    uint8_t version              # DOWN_*
    uint8_t security             # SEC_*
    uint16_t peer                # PeerTable slot

cdef struct H1s:                 # server side of a downstream HTTP/1 connection
    Worker *w
    Conn *conn
    Down *next
    Down *prev
    Down *next_dead
    ListenerState *listener
    uint8_t version
    uint8_t security
    uint16_t peer
    Exchange *ex
    uint8_t state                # S_*
    uint8_t out                  # OUT_*
    uint8_t close                # this answer ends the connection
    uint8_t minor
    uint8_t head_only            # HEAD, 204, 304: no body bytes
    uint32_t seen                # head bytes that a parse without success has looked at
    uint32_t requests
    int64_t out_left             # OUT_LENGTH: bytes still to send
    H1Body body

cdef struct H2IoOps:             # what an HTTP/2 connection tells the side that it belongs to
    void (*stream)(H2Io *io, H2Stream *s) noexcept nogil
    # ^ One that was woken: its kept input may flow, or it is broken.
    void (*over)(H2Io *io, int code) noexcept nogil
    # ^ Nothing comes any more: FM_EH2 (GOAWAY is ready to go), FM_EOF, FM_ERESET, FM_ETLS*, FM_ENOMEM. The owner ends it.
    void (*turn)(H2Io *io) noexcept nogil
    # ^ At the end of a turn in which it did something.

cdef struct H2Io:                # an HTTP/2 connection on its Conn, whichever side (proxy/h2_io.pyx)
    Worker *w
    Conn *conn                   # NULL: gone
    void *owner                  # H2s or H2c
    const H2IoOps *ops
    Task task                    # output and woken streams: once a turn
    H2Stream *wake               # streams to look at again
    H2Stream *wake_last
    H2 h

cdef struct H2s:                 # server side of a downstream HTTP/2 connection
    Worker *w
    Conn *conn
    Down *next
    Down *prev
    Down *next_dead
    ListenerState *listener
    uint8_t version
    uint8_t security
    uint16_t peer
    uint64_t quiet_since         # ms: when the last stream ended; 0: there are streams
    H2Io io

cdef enum:  # H2c.state
    HC_CONNECT = 0               # being dialled; with TLS it may yet turn out to be HTTP/1
    HC_OPEN
    HC_LEAVING                   # no new requests: GOAWAY, ids used up, another policy, the endpoint is gone
    HC_GONE

cdef struct H2c:                 # client side of an upstream HTTP/2 connection
    H2Io io
    H2c *next                    # UpPool.shared, while it takes requests
    H2c *prev
    H2c *next_dead
    Exchange *waiting            # for the dial, oldest first
    Exchange *waiting_last
    uint32_t nwaiting
    uint32_t cell
    uint8_t state                # HC_*
    uint8_t link                 # the mesh link: ALPN "fastmesh"
    uint8_t only_h2              # HTTP/1.1 is not offered: it is HTTP/2 whatever ALPN says (Envoy's explicit HTTP/2)
    uint8_t pinged               # a PING is on its way and nothing has come since
    uint32_t requests
    uint32_t most_requests       # of this connection; 0: no limit
    uint32_t most_streams        # DestinationRule's maxConcurrentStreams; 0: none
    uint32_t idle_ms
    uint32_t cluster_cell        # where it is counted (policy/breaker)
    uint64_t old_ms              # from when on it takes no request (maxConnectionDuration); 0: never
    uint64_t tag
    uint64_t tls_policy
    uint64_t heard               # Conn.rx when the keep-alive timer last looked
    uint64_t idle_since          # its last stream ended; 0: it has some
    uint32_t idle_for            # ms before the streams that it has now

cdef enum:  # H1c.state
    C_CONNECT = 0
    C_IDLE                       # in the pool
    C_HEAD                       # waiting for or in the answer's head
    C_BODY
    C_TUNNEL
    C_GONE

cdef struct H1c:                 # client side of an upstream HTTP/1 connection
    Worker *w
    Conn *conn
    Exchange *ex
    H1c *next                    # idle list
    H1c *prev
    H1c *next_dead
    uint8_t state                # C_*
    uint8_t reusable
    uint8_t interim              # 1xx answers so far
    uint32_t cell
    uint32_t seen
    uint32_t requests
    uint32_t idle_ms
    uint32_t idle_for            # ms in the pool before this request
    uint64_t idle_since          # ms
    uint32_t told_ms             # how long the other side says that it keeps it when idle (Keep-Alive: timeout=); 0: it does not say
    uint32_t most_requests
    uint32_t cluster_cell
    uint64_t old_ms              # from when on it takes no request (maxConnectionDuration); 0: never
    uint64_t tag
    uint64_t tls_policy
    uint64_t wire_before         # conn.wire_tx when this request began
    H1Body body

cdef enum:  # HealthCheck.state
    KS_CONNECT = 0
    KS_HEAD                      # the request is sent
    KS_BODY
    KS_GONE

cdef enum:  # HealthCheck.result
    KR_NONE = 0
    KR_PASS
    KR_FAIL                      # an answer that is not what is expected
    KR_NETWORK                   # no answer

cdef struct HealthCheck:         # one active health check of one endpoint, on a connection of its own (proxy/healthcheck)
    H2Io io                      # io.w and io.conn are set whatever is spoken
    HealthCheck *next            # Worker.checking
    HealthCheck *prev
    HealthCheck *next_dead
    uint64_t cluster             # stable id
    uint64_t tag
    uint64_t tls_policy          # that it was dialled under
    uint64_t claim               # what EpCell.check_at_ns is while this check counts
    uint32_t cell
    uint8_t kind                 # HK_*
    uint8_t state                # KS_*
    uint8_t result               # KR_*: HTTP/2, known in the middle of a frame; it counts at the end of the turn
    uint8_t h2                   # it is spoken
    uint8_t interim              # 1xx answers so far
    uint8_t grpc                 # grpc-status + 1; 0: none was seen
    uint16_t status
    uint32_t seen
    uint32_t body_n              # bytes of the answer's body so far
    char message[64]             # MESSAGE_MOST: the first of them
    H1Body body

cdef enum:  # Tcp.state
    TS_HELLO = 0                 # TLS with the client, or its first bytes are awaited
    TS_CONNECT                   # an upstream is being dialled
    TS_OPEN
    TS_GONE

cdef enum:  # Tcp.flags
    TF_DOWN_EOF = 1              # the client has said all ...
    TF_UP_EOF = 2                # ... the upstream has
    TF_PROBE = 4                 # it finds out whether an ejected endpoint is back
    TF_CONNECTED = 8             # counted as opened
    TF_DENIED = 16               # by a rule, whose name stands where its route would
    TF_SNIFF = 32                # TS_HELLO: what it speaks is to be found out; `up` is a guess (proxy/capture)
    TF_GUESSED = 64              # ... which is connected

cdef struct Tcp:                 # a TCP session: a client's connection and the one to its upstream (proxy/tcp.pyx)
    Worker *w
    Conn *conn
    Down *next
    Down *prev
    Down *next_dead
    ListenerState *listener
    uint8_t version
    uint8_t security
    uint16_t peer
    Conn *up                     # NULL: none yet, or no more
    Pipe *pipes[2]               # bytes on their way to the client [0] and from it [1]; NULL: by reads and writes
    uint8_t state                # TS_*
    uint8_t flags                # TF_*
    uint8_t direction            # DIR_*
    uint8_t tries                # dials begun
    uint32_t rf                  # RF_*
    uint32_t cell                # of the endpoint in use, SNAP_NONE
    uint32_t last_cell           # of the one that could not be reached
    uint32_t cluster_cell
    uint32_t idle_ms             # nothing moves for so long: the end; 0: never
    uint64_t cluster             # stable id
    uint64_t tag                 # SnapEndpoint.tag
    const char *details          # a literal
    uint64_t t_start             # ns
    uint64_t t_dial
    uint64_t moved_ms
    uint64_t rx_bytes            # from the client
    uint64_t tx_bytes            # to it
    uint64_t told_rx             # ... as the metrics know it
    uint64_t told_tx
    Timer age                    # maxConnectionDuration
    Timer tell                   # metrics of a session that goes on
    Addr peer_addr
    Addr upstream_addr
    Block *names                 # for the access log: SNI, cluster, route, one after the other
    uint16_t name_n[3]
    uint8_t authz                # AU_*
