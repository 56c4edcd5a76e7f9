"""HTTP/2 connection and stream state (L1). See h2_stream.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from fastmesh._core.base.buf cimport Block, BufPool, block_data, block_free, block_free_all, block_new
from fastmesh._core.base.pool cimport Pool, pool_get, pool_put
from fastmesh._core.proto.h2_frame cimport H2_DEFAULT_WINDOW, H2_MAX_FRAME
from fastmesh._core.proto.hpack cimport hpack_dec_end, hpack_dec_init
from fastmesh._core.proto.hpack_enc cimport hpack_enc_end, hpack_enc_init
from fastmesh._core.proto.hpack_table cimport HPACK_TABLE_MOST
from fastmesh._core.proto.msg cimport Msg

cdef extern from *:
    """
    #include <stdint.h>

    /* RFC 9113 5.1, figure 2, without the reserved states: next state, or 0x80 | error. Rows are states, columns are events, both in the
       order of their enums: headers, data, end, reset sent; headers, data, end, reset received. */
    enum { FM_OPEN = 1, FM_HLOC, FM_HREM, FM_CLOSED, FM_PROTO = 0x81, FM_INTERN = 0x82, FM_WAS_CLOSED = 0x85 };
    static const uint8_t fm_h2_next[5][8] = {
        /* idle */        {FM_OPEN, FM_INTERN, FM_INTERN, FM_INTERN, FM_OPEN, FM_PROTO, FM_PROTO, FM_PROTO},
        /* open */        {FM_OPEN, FM_OPEN, FM_HLOC, FM_CLOSED, FM_OPEN, FM_OPEN, FM_HREM, FM_CLOSED},
        /* half local */  {FM_INTERN, FM_INTERN, FM_INTERN, FM_CLOSED, FM_HLOC, FM_HLOC, FM_CLOSED, FM_CLOSED},
        /* half remote */ {FM_HREM, FM_HREM, FM_CLOSED, FM_CLOSED, FM_WAS_CLOSED, FM_WAS_CLOSED, FM_WAS_CLOSED, FM_CLOSED},
        /* closed */      {FM_INTERN, FM_INTERN, FM_INTERN, FM_INTERN, FM_WAS_CLOSED, FM_WAS_CLOSED, FM_WAS_CLOSED, FM_CLOSED},
    };
    """
    const uint8_t fm_h2_next[5][8]

cdef enum:
    BUCKETS_FIRST = 64
    BUCKETS_MOST = 4096          # 32 KiB; with more streams the chains get longer
    LATE_MOST = 1 << 20          # more heads than can be on their way
    STREAMS_UNTOLD = 100         # client: what we take for the peer's limit until its SETTINGS come (RFC 9113 6.5.2's advice)


cdef int h2_stream_event(int state, int event) noexcept nogil:
    cdef uint8_t to = fm_h2_next[state][event]
    return to if to < 0x80 else -<int>(to & 0x7f)


cdef void h2_init(H2 *h, bint server, bint link, const H2Ops *ops, void *owner, BufPool *bufs, Pool *pool, Msg *msg, char *arena,
                  const H2Limits *limits, uint64_t *stats) noexcept nogil:
    memset(h, 0, sizeof(H2))
    h.flags = (HF2_SERVER if server else HF2_PREFACE) | (HF2_LINK if link else 0)
    h.ops = ops
    h.owner = owner
    h.bufs = bufs
    h.pool = pool
    h.msg = msg
    h.arena = arena
    h.limits = limits[0]
    h.stats = stats
    h.peer.max_streams = STREAMS_UNTOLD
    h.peer.window = H2_DEFAULT_WINDOW
    h.peer.max_frame = H2_MAX_FRAME
    h.peer.max_list = 0xffffffff
    h.send_window = H2_DEFAULT_WINDOW
    h.recv_window = H2_DEFAULT_WINDOW
    h.next_local = 2 if server else 1
    h.goaway_last = 0x7fffffff
    hpack_dec_init(&h.dec, HPACK_TABLE_MOST)
    hpack_enc_init(&h.enc, not link)  # bytes are cheap between two sidecars, time is not
    h2_count(h, H2N_CX)


cdef void h2_end(H2 *h) noexcept nogil:
    cdef H2Stream *s = h2_stream_any(h)
    while s != NULL:
        h2_stream_close(s)
        h2_stream_release(s)
        s = h2_stream_any(h)
    hpack_dec_end(&h.dec, h.bufs)
    hpack_enc_end(&h.enc, h.bufs)
    block_free(h.bufs, h.block)
    block_free_all(h.bufs, h.out_head)
    h.block = NULL
    h.out_head = NULL
    h.out_tail = NULL
    h.out_n = 0


# ---- the hash of streams -------------------------------------------------------------------------------------------------------------

cdef inline uint32_t bucket_of(const H2 *h, uint32_t sid) noexcept nogil:
    return (sid >> 1) & (h.buckets - 1)


cdef bint grow_table(H2 *h) noexcept nogil:
    cdef uint32_t n = h.buckets * 4 if h.buckets else BUCKETS_FIRST
    cdef Block *b = block_new(h.bufs, <uint32_t>(n * sizeof(H2Stream *)))
    cdef H2Stream **old = h.table
    cdef uint32_t olds = h.buckets
    cdef H2Stream *s
    cdef H2Stream *nxt
    cdef uint32_t i, k
    if b == NULL:
        return old != NULL
    h.table = <H2Stream **>block_data(b)
    h.buckets = n
    memset(h.table, 0, n * sizeof(H2Stream *))
    for i in range(olds):
        s = old[i]
        while s != NULL:
            nxt = s.hnext
            k = bucket_of(h, s.id)
            s.hnext = h.table[k]
            h.table[k] = s
            s = nxt
    block_free(h.bufs, h.table_block)
    h.table_block = b
    return True


cdef H2Stream *h2_stream_find(H2 *h, uint32_t sid) noexcept nogil:
    cdef H2Stream *s
    if h.table == NULL:
        return NULL
    s = h.table[bucket_of(h, sid)]
    while s != NULL and s.id != sid:
        s = s.hnext
    return s


cdef H2Stream *h2_stream_any(H2 *h) noexcept nogil:
    cdef uint32_t i
    for i in range(h.buckets):
        if h.table[i] != NULL:
            return h.table[i]
    return NULL


cdef H2Stream *h2_stream_stale(H2 *h, uint32_t now, uint32_t span) noexcept nogil:
    cdef H2Stream *s
    cdef uint32_t i
    for i in range(h.buckets):
        s = h.table[i]
        while s != NULL:
            if now - s.moved >= span:
                return s
            s = s.hnext
    return NULL


cdef H2Stream *h2_stream_new(H2 *h, uint32_t sid) noexcept nogil:
    cdef H2Stream *s
    cdef uint32_t k
    if h.nstreams >= 2 * h.buckets and h.buckets < BUCKETS_MOST and not grow_table(h):
        return NULL
    s = <H2Stream *>pool_get(h.pool)
    if s == NULL:
        return NULL
    s.h = h
    s.id = sid
    s.send_window = h.peer.window
    s.recv_window = h.limits.stream_window
    s.body_left = -1
    k = bucket_of(h, sid)
    s.hnext = h.table[k]
    h.table[k] = s
    h.nstreams += 1
    h2_count(h, H2N_STREAMS)
    return s


# ---- the end of a stream -------------------------------------------------------------------------------------------------------------

cdef void h2_queue_take(H2Stream *s) noexcept nogil:
    cdef H2 *h = s.h
    if not s.flags & HSF_QUEUED:
        return
    s.flags &= ~<uint32_t>HSF_QUEUED
    if s.qnext == s:
        h.sendq = NULL
    else:
        s.qprev.qnext = s.qnext
        s.qnext.qprev = s.qprev
        if h.sendq == s:
            h.sendq = s.qnext
    s.qnext = NULL
    s.qprev = NULL


cdef void h2_queue_put(H2Stream *s) noexcept nogil:
    cdef H2 *h = s.h
    if s.flags & HSF_QUEUED:
        return
    s.flags |= HSF_QUEUED
    if h.sendq == NULL:
        s.qnext = s
        s.qprev = s
        h.sendq = s
    else:
        s.qnext = h.sendq
        s.qprev = h.sendq.qprev
        s.qprev.qnext = s
        h.sendq.qprev = s


cdef int h2_stream_gone(const H2 *h, uint32_t sid) noexcept nogil:
    cdef uint32_t i = sid >> 1 & (H2_GONE - 1)
    if sid > h.gone_top:
        return HG_UNUSED
    if h.gone_top - sid >= 2 * H2_GONE:
        return HG_FORGOTTEN
    return h.gone[i >> 2] >> 2 * (i & 3) & 3


cdef inline void set_gone(H2 *h, uint32_t sid, int how) noexcept nogil:
    cdef uint32_t i = sid >> 1 & (H2_GONE - 1)
    cdef uint32_t shift = 2 * (i & 3)
    h.gone[i >> 2] = <uint8_t>((h.gone[i >> 2] & ~(3 << shift)) | how << shift)


cdef void h2_stream_forget(H2 *h, uint32_t sid, bint by_reset) noexcept nogil:
    # only the client's ids, which are odd, are ever used: nobody pushes
    if by_reset and h.late < LATE_MOST:
        h.late += H2_LATE_HEADS
    if sid > h.gone_top and sid - h.gone_top >= 2 * H2_GONE:
        memset(h.gone, 0, sizeof(h.gone))
        h.gone_top = sid
    while h.gone_top < sid:
        h.gone_top += 2 if h.gone_top else 1
        set_gone(h, h.gone_top, HG_UNUSED)
    if h.gone_top - sid < 2 * H2_GONE:
        set_gone(h, sid, HG_RESET if by_reset else HG_ENDED)


cdef void h2_stream_over(H2Stream *s, uint32_t code, bint remote) noexcept nogil:
    if s.owner == NULL:
        h2_stream_release(s)
    else:
        s.h.ops.reset(s.h, s, code, remote)


cdef void h2_stream_close(H2Stream *s) noexcept nogil:
    cdef H2 *h = s.h
    s.state = HS_CLOSED
    h2_queue_take(s)
    if s.flags & HSF_COUNTED:
        s.flags &= ~<uint32_t>HSF_COUNTED
        if (s.id & 1) == (h.flags & HF2_SERVER):  # odd ones are the client's
            h.remote_open -= 1
        else:
            h.local_open -= 1
    block_free_all(h.bufs, s.out)
    block_free(h.bufs, s.trailers)
    s.out = NULL
    s.trailers = NULL
    s.out_n = 0


cdef void h2_stream_release(H2Stream *s) noexcept nogil:
    cdef H2 *h = s.h
    cdef H2Stream **at = &h.table[bucket_of(h, s.id)]
    h2_stream_forget(h, s.id, s.flags & HSF_RESET != 0)
    while at[0] != s:
        at = &at[0].hnext
    at[0] = s.hnext
    block_free_all(h.bufs, s.inp)
    block_free(h.bufs, s.in_trailers)
    pool_put(h.pool, s)
    h.nstreams -= 1
    if h.nstreams == 0:
        block_free(h.bufs, h.table_block)
        h.table_block = NULL
        h.table = NULL
        h.buckets = 0
