"""What is true of an HTTP/2 connection at any time, for the shims. Header-only."""
from libc.stdint cimport uint32_t

from fastmesh._core.base.buf cimport Block, block_len
from fastmesh._core.proto.h2_stream cimport HF2_SERVER, HS_CLOSED, HSF_COUNTED, HSF_QUEUED, H2, H2Stream


cdef inline const char *stream_faults(const H2Stream *s) noexcept nogil:
    cdef uint32_t waits = 0
    cdef const Block *b = s.out
    while b != NULL:
        waits += block_len(b)
        b = b.next
    if waits != s.out_n:
        return "a stream's count of unsent bytes is wrong"
    if s.state == HS_CLOSED and (waits or s.trailers != NULL or s.flags & (HSF_QUEUED | HSF_COUNTED)):
        return "a stream that is not quite closed"
    if s.flags & HSF_QUEUED and waits == 0:
        return "a stream that is queued with nothing to send"
    if waits and s.send_window > 0 and not s.flags & HSF_QUEUED:
        return "a stream with a window that is not queued"
    return NULL


cdef inline const char *h2_faults(const H2 *h, uint32_t live) noexcept nogil:
    """NULL, or what is wrong; live: streams in use of the pool that is this connection's alone."""
    cdef uint32_t there = 0, local = 0, remote = 0, queued = 0
    cdef const H2Stream *s
    cdef const char *fault
    cdef uint32_t i
    for i in range(h.buckets):
        s = h.table[i]
        while s != NULL:
            fault = stream_faults(s)
            if fault != NULL:
                return fault
            there += 1
            if s.flags & HSF_COUNTED:
                if (s.id & 1) == (h.flags & HF2_SERVER):
                    remote += 1
                else:
                    local += 1
            queued += 1 if s.flags & HSF_QUEUED else 0
            s = s.hnext
    if there != h.nstreams or local != h.local_open or remote != h.remote_open:
        return "the counts of streams are wrong"
    if there != live:
        return "a stream that was not given back"
    s = h.sendq
    while s != NULL and queued:
        if s.qnext.qprev != s or not s.flags & HSF_QUEUED:
            return "a queue that is torn"
        queued -= 1
        s = s.qnext
    if queued or s != h.sendq:
        return "a stream that is queued but not in the queue"
    return NULL
