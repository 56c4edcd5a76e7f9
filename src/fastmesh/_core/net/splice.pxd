"""Splice (L2): bytes from one socket to another through a pipe, without being copied (splice(2)). For plain connections that move much:
measured on loopback, a forwarder that splices takes 0.35 to 0.4 times the CPU of one that reads and writes.

A pipe is filled when it is empty and then emptied: so EAGAIN on the way in means an empty socket, and the end of input has nothing
before it that is still here.
"""
from libc.stdint cimport uint32_t
from fastmesh._core.net.conn cimport Conn

cdef enum:
    SPLICE_BYTES = 262144        # of one pipe: what a session may hold here, as one read into the scratch is
    SPLICE_PIPES = 128           # in use at once in a worker (two descriptors each, 32 MiB of pages in all); above: read and write
    SPLICE_KEPT = 16             # empty ones that are kept for the next

cdef struct Pipe:
    int r
    int w
    uint32_t held                # bytes in it
    Pipe *next

cdef struct PipePool:            # all zero: empty
    Pipe *free
    uint32_t kept
    uint32_t live                # in use

cdef Pipe *pipe_take(PipePool *pool) noexcept nogil
"""An empty pipe, or NULL: too many are in use, or there are no descriptors."""
cdef void pipe_give(PipePool *pool, Pipe *p) noexcept nogil
"""What is still in it is lost. NULL is let pass."""
cdef int splice_in(Conn *c, Pipe *p) noexcept nogil
"""As conn_read: bytes, FM_AGAIN (CF_READABLE is taken off), FM_EOF (CF_EOF is set), FM_ERESET. Only into an empty pipe, and while nothing
of the connection's input is kept."""
cdef int splice_out(Conn *c, Pipe *p) noexcept nogil
"""Bytes that the socket took, FM_AGAIN: it is full (set CF_BLOCKED), or FM_ERESET. Only while the out queue is empty."""
