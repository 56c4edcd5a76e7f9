"""Splice (L2). See splice.pxd."""
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from fastmesh._core.base.err cimport FM_AGAIN, FM_EOF, FM_ERESET
from fastmesh._core.base.sys cimport (
    EAGAIN, EINTR, F_SETPIPE_SZ, O_CLOEXEC, O_NONBLOCK, SPLICE_F_MOVE, SPLICE_F_NONBLOCK, close, fcntl, fm_errno, pipe2, splice)
from fastmesh._core.net.conn cimport CF_EOF, CF_READABLE, Conn


cdef Pipe *pipe_take(PipePool *pool) noexcept nogil:
    cdef Pipe *p = pool.free
    cdef int fds[2]
    if pool.live >= SPLICE_PIPES:
        return NULL
    if p != NULL:
        pool.free = p.next
        pool.kept -= 1
    else:
        p = <Pipe *>calloc(1, sizeof(Pipe))
        if p == NULL:
            return NULL
        if pipe2(fds, O_NONBLOCK | O_CLOEXEC) != 0:
            free(p)
            return NULL
        p.r = fds[0]
        p.w = fds[1]
        fcntl(p.w, F_SETPIPE_SZ, <int>SPLICE_BYTES)  # a user may have used up what it may make larger: then it stays as it is
    p.next = NULL
    pool.live += 1
    return p


cdef void pipe_give(PipePool *pool, Pipe *p) noexcept nogil:
    if p == NULL:
        return
    pool.live -= 1
    if p.held == 0 and pool.kept < SPLICE_KEPT:
        p.next = pool.free
        pool.free = p
        pool.kept += 1
        return
    close(p.r)
    close(p.w)
    free(p)


cdef int splice_in(Conn *c, Pipe *p) noexcept nogil:
    cdef ssize_t k
    while True:
        k = splice(c.src.fd, NULL, p.w, NULL, SPLICE_BYTES, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
        if k > 0:
            p.held += <uint32_t>k
            c.rx += k
            c.src.r.rx += k
            return <int>k
        if k == 0:
            c.flags |= CF_EOF
            return FM_EOF
        if fm_errno() == EINTR:
            continue
        c.flags &= ~<uint32_t>CF_READABLE
        return FM_AGAIN if fm_errno() == EAGAIN else FM_ERESET


cdef int splice_out(Conn *c, Pipe *p) noexcept nogil:
    cdef ssize_t k
    while True:
        k = splice(p.r, NULL, c.src.fd, NULL, p.held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
        if k > 0:
            p.held -= <uint32_t>k
            c.tx += k
            c.wire_tx += k
            c.src.r.tx += k
            return <int>k
        if k < 0 and fm_errno() == EINTR:
            continue
        return FM_AGAIN if k < 0 and fm_errno() == EAGAIN else FM_ERESET
