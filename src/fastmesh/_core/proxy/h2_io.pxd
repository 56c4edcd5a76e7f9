"""An HTTP/2 connection on its Conn (L3), whichever side: bytes into the protocol layer, its frames out once a turn, and what a stream's other side
does not take yet.

Frames gather while events are handled; a task at the end of the turn hands them to the socket, so that what many streams have to say is one
write. While the socket does not take them they stay with the protocol layer, which holds DATA back in its streams (H2_OUT_HIGH) and ends who
does not read answers to control frames (H2_CONTROL_OUT).
"""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.base.buf cimport Block
from fastmesh._core.base.view cimport Slice
from fastmesh._core.net.conn cimport Conn
from fastmesh._core.net.out cimport conn_flush
from fastmesh._core.proto.h2_stream cimport H2Limits, H2Ops, H2Stream
from fastmesh._core.proto.msg cimport Hdr, Msg
from fastmesh._core.proxy.ctx cimport H2Io, H2IoOps, Worker

cdef void h2_io_begin(H2Io *io, Worker *w, Conn *c, void *owner, const H2IoOps *ops, const H2Ops *events, bint server, bint link,
                      const H2Limits *limits, Msg *scratch) noexcept nogil
"""The connection speaks HTTP/2 from now on: SETTINGS (and the preface) are queued. scratch: for heads that come in."""
cdef void h2_io_end(H2Io *io) noexcept nogil
"""All that the connection holds is given back, the Conn is the caller's again; streams have been told before. Twice is once."""
cdef void h2_io_kick(H2Io *io) noexcept nogil
"""Something may be there to send: look at the end of this turn."""
cdef void h2_io_read(H2Io *io) noexcept nogil
"""Take what the socket has."""
cdef void h2_io_out(H2Io *io) noexcept nogil
"""Send what is ready now."""
cdef inline void h2_io_flush(Worker *w) noexcept nogil:
    """Borrowed bytes that were collected for a connection that speaks HTTP/1 go out."""
    if w.r.g.conn != NULL:
        conn_flush(<Conn *>w.r.g.conn)
cdef void h2_io_wake(H2Io *io, H2Stream *s) noexcept nogil
"""ops.stream of s at the end of this turn, once."""
cdef void h2_io_asleep(H2Io *io, H2Stream *s) noexcept nogil
"""Not any more."""
cdef void h2_io_keep(H2Io *io, H2Stream *s, const char *p, uint32_t n, bint end) noexcept nogil
"""Input that the other side does not take yet; without memory the stream is broken (HSF_BROKEN, woken). Bounded by the stream's window."""
cdef void h2_io_keep_trailers(H2Io *io, H2Stream *s, const Hdr *t, int n) noexcept nogil
"""The same, behind what is kept; they end it."""
cdef Block *h2_io_kept(H2Stream *s, Slice *v) noexcept nogil
"""The oldest block of what is kept (there is one), as v; it is the caller's now, and the peer may send as much again."""
cdef Block *h2_io_kept_end(H2Io *io, H2Stream *s, Msg *m) noexcept nogil
"""The kept end: its trailers as m.hdr (none: m.nhdr is 0), in a block that is the caller's now (none: NULL)."""
cdef void h2_io_forget(H2Io *io, H2Stream *s) noexcept nogil
"""What is kept of its input will not be used: credited to the connection; it is not looked at again."""
cdef void h2_io_release(H2Io *io, H2Stream *s, uint32_t code) noexcept nogil
"""Its owner lets go of it: reset with code unless it is closed; what is kept of it is credited to the connection."""
cdef bint h2_io_congested(H2Io *io, H2Stream *s) noexcept nogil
"""It takes no more: ops.writable of the protocol layer follows."""
cdef bint h2_io_idle(const H2Stream *s) noexcept nogil
"""Nothing is kept of its input, not even its end."""
