"""An HTTP/2 connection on its Conn (L3). See h2_io.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from fastmesh._core.base.buf cimport Block, block_data, block_free_all, block_len, block_new, block_room
from fastmesh._core.base.err cimport FM_AGAIN, FM_EH2, FM_ENOMEM, FM_OK
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.net.conn cimport (
    CF_BLOCKED, CF_READABLE, CONN_READ_MIN, CONN_READS_AT_ONCE, Conn, conn_keep, conn_kept_used, conn_read, conn_wake)
from fastmesh._core.net.out cimport conn_congested, conn_give
from fastmesh._core.net.reactor cimport SCRATCH_BYTES, reactor_task
from fastmesh._core.proto.h2_frame cimport H2_FRAME_HEAD, H2_MAX_FRAME
from fastmesh._core.proto.h2_recv cimport h2_recv
from fastmesh._core.proto.h2_send cimport h2_credit, h2_credit_conn, h2_drop, h2_pump, h2_start, h2_take
from fastmesh._core.proto.h2_stream cimport (
    HF2_FAILED, HSF_AWAKE, HSF_BROKEN, HSF_IN_END, HSF_WAITING, H2Limits, H2Ops, H2Stream, h2_end, h2_init)
from fastmesh._core.proto.msg cimport MSG_CAP_HEADERS, Hdr, Msg, msg_keep, msg_kept_size, msg_load, msg_reset
from fastmesh._core.proxy.ctx cimport H2Io, H2IoOps, Worker
from fastmesh._core.shm.stats cimport ST_H2, ST_PAUSES, stat_inc

cdef enum:
    KEPT_BLOCK = 16000           # kept input lies in blocks of up to 16 KiB: less than one of them is room that nothing is in
    READ_MOST = SCRATCH_BYTES - H2_FRAME_HEAD - H2_MAX_FRAME  # a frame that was cut stands in front of what is read


cdef void h2_io_begin(H2Io *io, Worker *w, Conn *c, void *owner, const H2IoOps *ops, const H2Ops *events, bint server, bint link,
                      const H2Limits *limits, Msg *scratch) noexcept nogil:
    io.w = w
    io.conn = c
    io.owner = owner
    io.ops = ops
    io.task.fn = on_task
    io.task.arg = io
    h2_init(&io.h, server, link, events, io, &w.r.bufs, &w.streams, scratch, w.arena, limits, &w.seg.stats.c[ST_H2])
    h2_start(&io.h)
    h2_io_kick(io)


cdef void h2_io_end(H2Io *io) noexcept nogil:
    if io.conn == NULL:
        return
    io.conn = NULL
    io.wake = NULL
    io.wake_last = NULL
    h2_end(&io.h)


cdef void h2_io_kick(H2Io *io) noexcept nogil:
    reactor_task(&io.w.r, &io.task)


# ---- streams to look at again --------------------------------------------------------------------------------------------------------

cdef void h2_io_wake(H2Io *io, H2Stream *s) noexcept nogil:
    if not s.flags & HSF_AWAKE:
        s.flags |= HSF_AWAKE
        s.wnext = NULL
        s.wprev = io.wake_last
        if io.wake_last != NULL:
            io.wake_last.wnext = s
        else:
            io.wake = s
        io.wake_last = s
    h2_io_kick(io)


cdef void h2_io_asleep(H2Io *io, H2Stream *s) noexcept nogil:
    if not s.flags & HSF_AWAKE:
        return
    s.flags &= ~<uint32_t>HSF_AWAKE
    if s.wprev != NULL:
        s.wprev.wnext = s.wnext
    else:
        io.wake = s.wnext
    if s.wnext != NULL:
        s.wnext.wprev = s.wprev
    else:
        io.wake_last = s.wprev


cdef void on_task(void *arg) noexcept nogil:
    cdef H2Io *io = <H2Io *>arg
    cdef H2Stream *s
    cdef H2Stream *last = io.wake_last  # what is woken meanwhile waits for the next turn
    while io.conn != NULL and io.wake != NULL and last != NULL:
        s = io.wake
        if s == last:
            last = NULL
        h2_io_asleep(io, s)
        io.ops.stream(io, s)
    if io.conn == NULL:
        return
    if io.wake != NULL:
        h2_io_kick(io)
    h2_io_flush(io.w)
    if io.h.flags & HF2_FAILED:
        io.ops.over(io, FM_EH2)  # not by what came, which h2_recv tells: memory ran out while something was written
        return
    h2_io_out(io)
    if io.conn != NULL:
        io.ops.turn(io)


# ---- in ------------------------------------------------------------------------------------------------------------------------------

cdef void h2_io_read(H2Io *io) noexcept nogil:
    cdef Worker *w = io.w
    cdef Conn *c = io.conn
    cdef uint32_t left = CONN_READS_AT_ONCE
    cdef uint32_t kept, size
    cdef int got, used, rc
    while io.conn != NULL:
        if left == 0:
            conn_wake(c)
            break
        left -= 1
        kept = 0
        if c.inb != NULL:
            kept = block_len(c.inb)
            memcpy(w.r.scratch, block_data(c.inb) + c.inb.start, kept)
        rc = FM_AGAIN
        got = 0
        if c.flags & CF_READABLE:
            size = c.read_size if c.read_size < READ_MOST else READ_MOST
            rc = conn_read(c, w.r.scratch + kept, size)
            if rc > 0:
                got = rc
                if <uint32_t>got == size and c.read_size < SCRATCH_BYTES:
                    c.read_size *= 2
                elif got < CONN_READ_MIN:
                    c.read_size = CONN_READ_MIN
        if kept:
            conn_kept_used(c, kept)
        if kept + got:
            used = h2_recv(&io.h, w.r.scratch, kept + got, w.r.now_ms)
            h2_io_flush(w)
            if io.conn == NULL:
                return
            if used < 0:
                io.ops.over(io, FM_EH2)
                return
            h2_io_kick(io)
            if <uint32_t>used < kept + got and conn_keep(c, w.r.scratch + used, kept + got - <uint32_t>used) != FM_OK:
                io.ops.over(io, FM_ENOMEM)
                return
        if got == 0:
            if rc != FM_AGAIN:
                io.ops.over(io, rc)
            return


# ---- out -----------------------------------------------------------------------------------------------------------------------------

cdef void h2_io_out(H2Io *io) noexcept nogil:
    cdef Conn *c = io.conn
    cdef uint64_t n = 0
    cdef bint more = True
    cdef Block *b
    while more and not conn_congested(c):
        more = h2_pump(&io.h)
        b = h2_take(&io.h, &n)
        if b == NULL:
            return
        conn_give(c, b)
    if conn_congested(c):
        c.flags |= CF_BLOCKED    # ops.drained goes on


cdef bint h2_io_congested(H2Io *io, H2Stream *s) noexcept nogil:
    if s.out_n == 0:
        return False
    if not s.flags & HSF_WAITING:
        s.flags |= HSF_WAITING
        stat_inc(io.w.seg.stats, ST_PAUSES)
    return True


# ---- input that waits ----------------------------------------------------------------------------------------------------------------

cdef bint h2_io_idle(const H2Stream *s) noexcept nogil:
    return s.inp == NULL and not s.flags & HSF_IN_END


cdef void broken(H2Io *io, H2Stream *s) noexcept nogil:
    s.flags |= HSF_BROKEN
    h2_io_wake(io, s)


cdef void h2_io_keep(H2Io *io, H2Stream *s, const char *p, uint32_t n, bint end) noexcept nogil:
    cdef Block *b = s.inp
    cdef Block *more
    cdef uint32_t k
    s.in_n += n
    if end:
        s.flags |= HSF_IN_END
    while b != NULL and b.next != NULL:
        b = b.next
    while n:
        if b == NULL or block_room(b) == 0:
            k = n if n > s.in_n >> 1 else s.in_n >> 1  # few blocks, however it comes in
            more = block_new(&io.w.r.bufs, k if k < KEPT_BLOCK else KEPT_BLOCK)
            if more == NULL:
                broken(io, s)
                return
            if b == NULL:
                s.inp = more
            else:
                b.next = more
            b = more
        k = block_room(b) if block_room(b) < n else n
        memcpy(block_data(b) + b.end, p, k)
        b.end += k
        p += k
        n -= k


cdef Block *h2_io_kept(H2Stream *s, Slice *v) noexcept nogil:
    cdef Block *b = s.inp
    s.inp = b.next
    v[0] = slice_of(block_data(b) + b.start, block_len(b))
    s.in_n -= v.n
    h2_credit(s, v.n)
    return b


cdef Block *h2_io_kept_end(H2Io *io, H2Stream *s, Msg *m) noexcept nogil:
    cdef Block *b = s.in_trailers
    s.flags &= ~<uint32_t>HSF_IN_END
    s.in_trailers = NULL
    msg_reset(m, 0)
    if b != NULL:
        msg_load(m, block_data(b))
    return b


cdef void h2_io_keep_trailers(H2Io *io, H2Stream *s, const Hdr *t, int n) noexcept nogil:
    cdef Msg *m = &io.w.again
    cdef uint32_t size
    cdef int i
    s.flags |= HSF_IN_END
    if n == 0:
        return
    msg_reset(m, 0)
    m.nhdr = <uint32_t>(n if n < MSG_CAP_HEADERS else MSG_CAP_HEADERS)
    for i in range(<int>m.nhdr):
        m.hdr[i] = t[i]
    size = msg_kept_size(m)
    s.in_trailers = block_new(&io.w.r.bufs, size)
    if s.in_trailers == NULL or s.in_trailers.cap < size:
        broken(io, s)
        return
    s.in_trailers.end = msg_keep(m, block_data(s.in_trailers))


cdef void h2_io_forget(H2Io *io, H2Stream *s) noexcept nogil:
    h2_io_asleep(io, s)
    if s.in_n:
        h2_credit_conn(&io.h, s.in_n)
        s.in_n = 0
    block_free_all(&io.w.r.bufs, s.inp)
    s.inp = NULL


cdef void h2_io_release(H2Io *io, H2Stream *s, uint32_t code) noexcept nogil:
    h2_io_forget(io, s)
    h2_drop(s, code)
    h2_io_kick(io)
