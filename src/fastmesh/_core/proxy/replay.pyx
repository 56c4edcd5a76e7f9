"""What is kept of a request so that it can be sent again (L3). See replay.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from fastmesh._core.base.buf cimport Block, block_data, block_free, block_free_all, block_len, block_new, block_room
from fastmesh._core.base.err cimport FM_ENOMEM, FM_OK
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proto.msg cimport Msg, msg_keep, msg_kept_size, msg_load
from fastmesh._core.proxy.ctx cimport REPLAY_BYTES, XF_REPLAYABLE, Exchange


cdef int replay_keep_head(Exchange *ex, const Msg *m) noexcept nogil:
    cdef uint32_t n = msg_kept_size(m)
    ex.req = block_new(&ex.w.r.bufs, n)
    if ex.req == NULL or ex.req.cap < n:
        return FM_ENOMEM
    ex.req.end = msg_keep(m, block_data(ex.req))
    ex.flags |= XF_REPLAYABLE
    return FM_OK


cdef int keep_body(Exchange *ex, const char *p, size_t n) noexcept nogil:
    # behind what is kept already
    cdef Block *b = ex.body
    cdef Block *more
    cdef uint32_t k
    while b != NULL and b.next != NULL:
        b = b.next
    while n:
        if b == NULL or block_room(b) == 0:
            more = block_new(&ex.w.r.bufs, <uint32_t>n)
            if more == NULL:
                return FM_ENOMEM
            if b == NULL:
                ex.body = more
            else:
                b.next = more
            b = more
        k = block_room(b)
        if k > n:
            k = <uint32_t>n
        memcpy(block_data(b) + b.end, p, k)
        b.end += k
        p += k
        n -= k
    return FM_OK


cdef void replay_keep_data(Exchange *ex, const Slice *v, int n) noexcept nogil:
    # called before rx_bytes counts it: all of it, or the request cannot be repeated any more
    cdef uint64_t total = ex.rx_bytes
    cdef int i
    for i in range(n):
        total += v[i].n
    if total <= REPLAY_BYTES:
        for i in range(n):
            if keep_body(ex, v[i].p, v[i].n) != FM_OK:
                replay_forget_body(ex)
                return
    else:
        replay_forget_body(ex)


cdef int replay_copy(const Exchange *ex, Exchange *to) noexcept nogil:
    cdef Block *b = ex.body
    msg_load(&ex.w.again, block_data(ex.req))
    if replay_keep_head(to, &ex.w.again) != FM_OK:
        return FM_ENOMEM
    while b != NULL:
        if keep_body(to, block_data(b) + b.start, block_len(b)) != FM_OK:
            return FM_ENOMEM
        b = b.next
    return FM_OK


cdef void replay_forget_body(Exchange *ex) noexcept nogil:
    block_free_all(&ex.w.r.bufs, ex.body)
    ex.body = NULL
    ex.flags &= ~<uint32_t>XF_REPLAYABLE


cdef void replay_forget(Exchange *ex) noexcept nogil:
    block_free(&ex.w.r.bufs, ex.req)
    block_free_all(&ex.w.r.bufs, ex.body)
    ex.req = NULL
    ex.body = NULL
    ex.flags &= ~<uint32_t>XF_REPLAYABLE
