"""HTTP/2 connection and stream state (L1): what h2_recv and h2_send share. RFC 9113 section 5.

A H2 is one connection's protocol state in either role; it knows no socket, no clock and no config: bytes come in by h2_recv, frames go out as
a chain of Blocks (h2_take), events are told by H2Ops. Whoever owns it gives it its pools.

Streams live in `streams` (hash by id) from the frame that opens them until they are closed and their owner has let go
(h2_stream_release). Of those that have gone, the last H2_GONE ids are remembered with two bits each (h2_stream_gone); of older ones nothing is
known, and what still comes on them is ignored: it may have been on its way when we reset them.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmesh._core.base.buf cimport Block, BufPool
from fastmesh._core.base.pool cimport Pool
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proto.hpack cimport HpackDec
from fastmesh._core.proto.hpack_enc cimport HpackEnc
from fastmesh._core.proto.msg cimport Hdr, Msg

cdef enum:  # H2Stream.state (RFC 9113 5.1; we never push, so nothing is ever reserved)
    HS_IDLE = 0
    HS_OPEN
    HS_HALF_LOCAL                # we have said END_STREAM
    HS_HALF_REMOTE               # the peer has
    HS_CLOSED
    HS_STATES                    # must be last

cdef enum:  # h2_stream_event
    HE_SEND_HEADERS = 0
    HE_SEND_DATA
    HE_SEND_END                  # END_STREAM, with whatever frame carries it
    HE_SEND_RST
    HE_RECV_HEADERS
    HE_RECV_DATA
    HE_RECV_END
    HE_RECV_RST
    HE_EVENTS                    # must be last

cdef enum:  # H2Stream.flags
    HSF_HEAD_SENT = 1            # a final head (not 1xx) was sent
    HSF_HEAD_SEEN = 2            # a final head was received
    HSF_QUEUED = 4               # in H2.sendq
    HSF_END_QUEUED = 8           # END_STREAM follows the last unsent byte (or the kept trailers)
    HSF_COUNTED = 16             # against a limit of concurrent streams
    HSF_HEAD_REQ = 32            # client: the request was HEAD (a content-length is not checked against DATA)
    HSF_CONNECT = 64             # CONNECT: DATA has no length to keep
    HSF_WAITING = 128            # the owner wants ops.writable when its unsent bytes have gone
    HSF_RESET = 256              # we reset it
    HSF_IN_END = 512             # the owner's: END_STREAM (or the kept trailers) follows the kept input
    HSF_AWAKE = 1024             # the owner's: in its list of streams to look at again
    HSF_BROKEN = 4096            # the owner's: it cannot go on, and its exchange has yet to be told

cdef struct H2Stream:            # pool of the worker
    H2 *h
    void *owner                  # the exchange, set in ops.head (server) or behind h2_open (client); who lets go calls h2_drop
    H2Stream *hnext              # next in the hash bucket
    H2Stream *qnext              # sendq: round robin
    H2Stream *qprev
    uint32_t id
    uint8_t state                # HS_*
    uint8_t interim              # 1xx answers so far
    uint16_t flags               # HSF_*
    int64_t send_window          # may be negative (RFC 9113 6.9.2)
    int64_t recv_window          # what the peer may still send
    int64_t body_left            # declared content-length minus DATA received; -1: none was declared
    uint32_t credit              # received and used up, not yet told to the peer
    uint32_t out_n               # unsent bytes in `out`
    Block *out                   # unsent DATA, FIFO
    Block *trailers              # encoded only when they go: a kept head (msg_keep_fields)
    # the owner's, given back with the stream
    Block *inp                   # input that the other side does not take yet, FIFO
    Block *in_trailers           # a trailer section behind it: a kept head
    uint32_t in_n                # bytes of inp: not credited yet
    uint32_t moved               # low bits of the ms when something last moved
    H2Stream *wnext              # list of streams to look at again
    H2Stream *wprev

cdef struct H2Ops:               # events; each may reset, end or send on any stream, never free the H2
    void (*head)(H2 *h, H2Stream *s, Msg *m, bint end) noexcept nogil
    # ^ A request (server: s is new, owner NULL) or a response head, 1xx included (client). m is h.msg: valid during the call.
    #   Who takes a request sets s.owner before it returns. A stream that is left without one is no one's to read, to end or to release:
    #   it is dropped behind the call, with REFUSED_STREAM, or INTERNAL_ERROR when a head was sent on it.
    void (*data)(H2 *h, H2Stream *s, const char *p, uint32_t n, bint end) noexcept nogil
    # ^ n may be 0 with end. Borrowed during the call. The receiver gives credit with h2_credit when the bytes are used up.
    void (*trailers)(H2 *h, H2Stream *s, const Hdr *t, int n) noexcept nogil
    # ^ They end the stream's input.
    void (*refused)(H2 *h, H2Stream *s, int code) noexcept nogil
    # ^ Server: a request that is answered with a status instead of a reset: FM_EHEAD (431), FM_ETARGET (414), FM_EMETHOD (501), FM_EEXPECT (417).
    #   s is new and to be taken as in head.
    void (*reset)(H2 *h, H2Stream *s, uint32_t code, bint remote) noexcept nogil
    # ^ The stream is over: RST_STREAM came (remote), or an error of the stream made us send one, as does trailers that no memory was left for
    #   when their turn came (h2_pump; INTERNAL_ERROR). The receiver lets go.
    void (*writable)(H2 *h, H2Stream *s) noexcept nogil
    # ^ After HSF_WAITING: all that was given has been framed.
    void (*goaway)(H2 *h, uint32_t last, uint32_t code) noexcept nogil
    # ^ Client: each stream with a greater id has been told by reset(REFUSED_STREAM, remote) before.
    void (*settings)(H2 *h) noexcept nogil
    # ^ The peer's SETTINGS were taken up.

cdef struct H2Peer:              # the other side's settings, RFC 9113 6.5.2's defaults until they come
    uint32_t max_streams         # 0xffffffff: no limit
    uint32_t window
    uint32_t max_frame
    uint32_t max_list
    uint8_t connect_protocol
    uint8_t seen                 # its first SETTINGS have come
    uint8_t reserved[2]

cdef struct H2Limits:            # ours; h2_limits.pxd has defaults and reasons
    uint32_t max_streams
    uint32_t stream_window
    uint32_t conn_window

cdef enum:  # H2.flags
    HF2_SERVER = 1
    HF2_PREFACE = 2              # server: the client's preface has been read
    HF2_GOAWAY_SENT = 4          # the last one, with the real last id: no new stream is taken
    HF2_GOAWAY_SOON = 8          # the first step of a drain (last id 2^31-1) was sent
    HF2_GOAWAY_SEEN = 16
    HF2_FAILED = 32              # an error of the connection: nothing is read any more
    HF2_LINK = 64                # the mesh link: HTTP/1 facts travel along (proto/h2_case)
    HF2_SETTINGS_ACKED = 128

cdef struct H2:
    void *owner                  # H2s or H2c
    const H2Ops *ops
    BufPool *bufs                # of the worker
    Pool *pool                   # H2Stream, of the worker
    Msg *msg                     # scratch for a head that comes in
    char *arena                  # H2_ARENA bytes of scratch for its strings
    uint64_t *stats              # counters by H2N_*
    uint32_t flags               # HF2_*
    uint32_t error               # H2_*_ERROR of the connection
    const char *why              # static text of it
    H2Peer peer
    H2Limits limits
    HpackDec dec
    HpackEnc enc
    int64_t send_window          # of the connection
    int64_t recv_window
    uint32_t credit              # of the connection, not yet told
    uint32_t nstreams            # in the hash
    uint32_t remote_open         # streams that the peer opened and that count against max_streams
    uint32_t local_open          # streams that we opened and that count against peer.max_streams
    uint32_t last_remote         # highest id that the peer opened
    uint32_t last_taken          # highest id that was handed to ops.head (what GOAWAY tells)
    uint32_t next_local          # id of the next stream that we open; 0: used up
    uint32_t goaway_last         # client: what the peer's GOAWAY said
    H2Stream **table             # buckets, NULL while there is no stream (nstreams 0 and idle)
    Block *table_block           # holds them
    uint32_t buckets             # power of two
    H2Stream *sendq              # streams with something to send, round robin; the next one is at its head
    Block *out_head              # frames ready to go
    Block *out_tail
    uint32_t out_n
    uint32_t out_control         # bytes of it that answer the peer's frames (PING, SETTINGS, RST): bounded
    # a frame or header block that is in the middle
    uint32_t data_stream         # DATA: id, payload left, padding left
    uint32_t data_left
    uint32_t pad_left
    uint8_t data_end
    uint8_t block_flags          # of the HEADERS frame that began the block
    uint16_t block_frames        # CONTINUATIONs so far
    uint32_t block_stream        # 0: none is open
    Block *block                 # fragments so far
    # accounts of limits (h2_recv): events in the current second
    uint64_t second
    uint32_t resets_in           # RST_STREAM received
    uint32_t resets_out          # RST_STREAM that the peer made us send (CVE-2025-8671)
    uint32_t pings
    uint32_t settings_n
    uint32_t empties             # frames that move nothing
    uint32_t updates             # WINDOW_UPDATEs
    uint32_t data_sent           # DATA frames sent: what window updates are measured against
    uint32_t opened              # streams that the peer opened: what resets are measured against
    uint32_t late                # heads that may still come on streams that we reset
    uint32_t gone_top            # highest id that has gone
    uint8_t gone[128]            # HG_* of the H2_GONE ids up to it, two bits each

cdef enum:  # H2.stats: what is counted; ST_H2 of shm/stats.pxd has room for them, in this order
    H2N_CX = 0                   # connections
    H2N_STREAMS                  # streams opened by either side
    H2N_REFUSED                  # ... and refused: more than max_streams
    H2N_RST_IN
    H2N_RST_OUT
    H2N_GOAWAY_IN
    H2N_GOAWAY_OUT
    H2N_MALFORMED                # messages refused (stream errors of kind PROTOCOL_ERROR)
    H2N_PROTOCOL                 # connection errors: PROTOCOL_ERROR, FRAME_SIZE_ERROR, STREAM_CLOSED, COMPRESSION_ERROR
    H2N_FLOW                     # FLOW_CONTROL_ERROR of a stream or connection
    H2N_HEADER_LIST              # requests above MSG_MAX_HEAD or MSG_MAX_HEADERS
    H2N_RAPID_RESET              # limits: H2_RESETS_IN
    H2N_MADE_RESET               # H2_RESETS_OUT
    H2N_CONTINUATIONS            # H2_CONTINUATIONS or a header block above MSG_MAX_HEAD
    H2N_PINGS
    H2N_SETTINGS
    H2N_EMPTY_FRAMES
    H2N_UPDATES
    H2N_CONTROL_OUT
    H2N_STALLED                  # streams ended because their window stayed shut (stream idle timeout)
    H2N_N                        # must be last

cdef enum:  # h2_stream_gone
    HG_UNUSED = 0                # never used, or not gone
    HG_ENDED                     # both sides had ended it, or the peer had reset it: nothing may come
    HG_RESET                     # by us: what was on its way is ignored
    HG_FORGOTTEN                 # any of the above, long ago

cdef enum:
    H2_GONE = 512                # ids that are remembered: only the errors of a peer that breaks the rules depend on it
    H2_LATE_HEADS = 3            # on a stream that we reset: an interim head, the head, trailers
    H2_ARENA = 98304             # more than MSG_MAX_HEAD: decoded strings of one head, names made

cdef inline void h2_count(H2 *h, int n) noexcept nogil:
    h.stats[n] += 1

cdef int h2_stream_event(int state, int event) noexcept nogil
"""The next state by the transition table, or -(H2_*_ERROR) of an event that this state does not allow; HS_IDLE's errors are of the
connection, the others' of the stream unless the RFC says else (h2_recv)."""
cdef void h2_init(H2 *h, bint server, bint link, const H2Ops *ops, void *owner, BufPool *bufs, Pool *pool, Msg *msg, char *arena,
                  const H2Limits *limits, uint64_t *stats) noexcept nogil
cdef void h2_end(H2 *h) noexcept nogil
"""Give back every block and every stream, without events: owners have been told before."""
cdef H2Stream *h2_stream_find(H2 *h, uint32_t sid) noexcept nogil
cdef H2Stream *h2_stream_new(H2 *h, uint32_t sid) noexcept nogil
"""In the hash, idle, with initial windows; NULL at the pool's cap or without memory."""
cdef void h2_stream_close(H2Stream *s) noexcept nogil
"""To HS_CLOSED: no longer counted, unsent bytes thrown away. The struct stays until h2_stream_release."""
cdef void h2_stream_release(H2Stream *s) noexcept nogil
"""A closed stream goes: out of the hash and back into the pool. (h2_drop of h2_send closes it first.)"""
cdef void h2_stream_over(H2Stream *s, uint32_t code, bint remote) noexcept nogil
"""A closed stream that its owner is told of (ops.reset); s is gone if it had none."""
cdef int h2_stream_gone(const H2 *h, uint32_t sid) noexcept nogil
"""HG_* of an id that is not in the hash."""
cdef void h2_stream_forget(H2 *h, uint32_t sid, bint by_reset) noexcept nogil
"""Remember that it has gone; by_reset: frames of it may still be on their way."""
cdef void h2_queue_put(H2Stream *s) noexcept nogil
"""To the end of sendq, once."""
cdef void h2_queue_take(H2Stream *s) noexcept nogil
cdef H2Stream *h2_stream_any(H2 *h) noexcept nogil
"""Some stream, or NULL: to tell all owners of a dead connection."""
cdef H2Stream *h2_stream_stale(H2 *h, uint32_t now, uint32_t span) noexcept nogil
"""Some stream that has not moved (H2Stream.moved) for span ms, or NULL."""
