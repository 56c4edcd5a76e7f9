"""Shared upstream connections (L3): who may have a stream of one, and who waits while it is being dialled. See share.pxd."""
from libc.stdint cimport uint32_t
from fastmesh._core.base.err cimport FM_AGAIN, FM_ENOMEM, FM_OK
from fastmesh._core.net.conn cimport conn_deadline
from fastmesh._core.proto.h2_send cimport h2_open
from fastmesh._core.proto.h2_stream cimport HF2_FAILED, HF2_GOAWAY_SEEN, H2Stream
from fastmesh._core.proxy.ctx cimport HC_CONNECT, HC_LEAVING, HC_OPEN, XF_UPGRADE, Exchange, H2c, UpOps, UpPool, Worker
from fastmesh._core.proxy.h2_io cimport h2_io_kick
from fastmesh._core.shm.stats cimport ST_UP_STREAMS, stat_inc

cdef enum:
    WAITING_MOST = 100           # exchanges that one dial may serve (RFC 9113 6.5.2 advises a peer to take no less)
    SHARE_STREAMS = 128          # requests on one connection; more: another one. What they hold fits into H2_CONN_WINDOW
    EARLY_STREAMS = 8            # before the first SETTINGS of an endpoint: some (grpc-core) reset what is too much with ENHANCE_YOUR_CALM

cdef UpOps WAIT_OPS


cdef void share_init(Worker *w) noexcept nogil:
    WAIT_OPS.abort = wait_abort
    WAIT_OPS.resume = wait_nothing
    WAIT_OPS.congested = wait_true
    WAIT_OPS.unseen = wait_true
    WAIT_OPS.flush = wait_nothing
    w.h2_wait = &WAIT_OPS


# ---- who waits for the dial ------------------------------------------------------------------------------------------------------------

cdef void wait_for(H2c *u, Exchange *ex) noexcept nogil:
    ex.up = u
    ex.uops = u.io.w.h2_wait
    ex.wait_next = NULL
    ex.wait_prev = u.waiting_last
    if u.waiting_last != NULL:
        u.waiting_last.wait_next = ex
    else:
        u.waiting = ex
    u.waiting_last = ex
    u.nwaiting += 1


cdef Exchange *share_wait_no_more(H2c *u, Exchange *ex) noexcept nogil:
    if ex.wait_prev != NULL:
        ex.wait_prev.wait_next = ex.wait_next
    else:
        u.waiting = ex.wait_next
    if ex.wait_next != NULL:
        ex.wait_next.wait_prev = ex.wait_prev
    else:
        u.waiting_last = ex.wait_prev
    u.nwaiting -= 1
    ex.up = NULL
    return ex


cdef void wait_abort(Exchange *ex) noexcept nogil:
    if ex.up != NULL:
        share_wait_no_more(<H2c *>ex.up, ex)


cdef void wait_nothing(Exchange *ex) noexcept nogil:
    pass


cdef bint wait_true(Exchange *ex) noexcept nogil:
    return True


# ---- taking requests -------------------------------------------------------------------------------------------------------------------

cdef inline uint32_t less(uint32_t a, uint32_t b) noexcept nogil:
    return a if a < b else b


cdef inline uint32_t untold(const H2c *u) noexcept nogil:
    # what we take for the limit of a connection whose SETTINGS have not come
    cdef uint32_t last = u.io.w.pools[u.cell].most_streams
    return last if last != 0 and last < WAITING_MOST else WAITING_MOST


cdef bint share_room(const H2c *u, bint upgrade) noexcept nogil:
    cdef uint32_t most
    if u.state == HC_CONNECT:
        most = untold(u)
    elif u.state == HC_OPEN and not u.io.h.flags & (HF2_FAILED | HF2_GOAWAY_SEEN) and u.io.h.next_local:
        if upgrade and u.io.h.peer.seen and not u.io.h.peer.connect_protocol:
            return False
        most = u.io.h.peer.max_streams if u.io.h.peer.seen else untold(u)
    else:
        return False
    most = less(most, u.most_streams if u.most_streams else SHARE_STREAMS)
    if u.most_requests:
        if u.requests + u.nwaiting >= u.most_requests:
            return False
    return u.io.h.local_open + u.nwaiting < most


cdef bint share_open(H2c *u, Exchange *ex) noexcept nogil:
    cdef H2Stream *st = h2_open(&u.io.h)
    if st == NULL:
        return False
    st.owner = ex
    st.moved = <uint32_t>ex.w.r.now_ms
    ex.up = st
    ex.uops = ex.w.h2_up
    u.requests += 1
    stat_inc(ex.w.seg.stats, ST_UP_STREAMS)
    if u.io.h.nstreams == 1:
        u.idle_for = <uint32_t>(ex.w.r.now_ms - u.idle_since)
        u.idle_since = 0
        u.pinged = 0
        u.heard = u.io.conn.rx
        conn_deadline(u.io.conn, ex.w.r.now_ms + KEEPALIVE_MS)
    return True


cdef bint share_early(const H2c *u, const Exchange *ex) noexcept nogil:
    cdef uint32_t last = u.io.w.pools[u.cell].most_streams
    if u.io.h.peer.seen:
        return False
    return ex.flags & XF_UPGRADE or u.io.h.local_open >= (last if last else EARLY_STREAMS)


cdef int share_attach(H2c *u, Exchange *ex) noexcept nogil:
    if u.state == HC_CONNECT or share_early(u, ex):
        wait_for(u, ex)
        return FM_AGAIN
    return FM_OK if share_open(u, ex) else FM_ENOMEM


cdef void share_out(H2c *u) noexcept nogil:
    cdef UpPool *p = &u.io.w.pools[u.cell]
    if u.prev != NULL:
        u.prev.next = u.next
    elif p.shared == u:
        p.shared = u.next
    if u.next != NULL:
        u.next.prev = u.prev
    u.next = NULL
    u.prev = NULL


cdef void share_leave(H2c *u) noexcept nogil:
    # never ended here: the protocol layer may be in the middle of this connection's frames
    share_out(u)
    if u.state == HC_OPEN:
        u.state = HC_LEAVING
        h2_io_kick(&u.io)
