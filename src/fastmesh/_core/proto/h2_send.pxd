"""HTTP/2 frames out (L1), RFC 9113: heads, DATA within both windows, round robin over streams, control frames first.

Frames are written into h.out_*; whoever owns the connection takes the chain once a tick (h2_take) and sends it. DATA that no window has
room for waits in its stream (H2Stream.out); h2_pump frames it when there is.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from fastmesh._core.base.buf cimport Block
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proto.h2_stream cimport H2, H2Stream
from fastmesh._core.proto.msg cimport Hdr, Msg

cdef enum:
    H2_OUT_HIGH = 262144         # bytes of ready frames above which DATA is held back in its stream

cdef int h2_start(H2 *h) noexcept nogil
"""Our preface (client), SETTINGS, and the connection's window. FM_OK or FM_ENOMEM."""
cdef H2Stream *h2_open(H2 *h) noexcept nogil
"""Client: the next stream, or NULL: the peer's limit, ids used up, GOAWAY, no memory. h2_send_head comes next."""
cdef int h2_send_head(H2Stream *s, const Msg *m, bint end) noexcept nogil
"""A request (m.target, HOST as :authority, scheme by MF_HTTPS, protocol) or a response head, 1xx included; dropped fields left out; MF_TE_TRAILERS says
te: trailers. FM_OK, FM_ENOMEM, FM_EHEAD (above the peer's header list size: nothing was sent), FM_EOF (the stream is closed)."""
cdef int h2_send_data(H2Stream *s, const Slice *v, int n, bint end) noexcept nogil
"""Copies: into ready frames as far as windows allow and nothing waits, the rest into the stream. FM_OK, FM_EOF; FM_ENOMEM: a part may have been
taken, so the stream is to be reset."""
cdef int h2_send_trailers(H2Stream *s, const Hdr *t, int n) noexcept nogil
"""Behind the data that waits; ends the stream. Dropped fields, pseudo fields and connection-specific ones are left out. FM_OK, FM_EOF; FM_ENOMEM,
FM_EHEAD: nothing was taken, and nothing has changed unless the connection failed. (When memory ends behind the data: ops.reset.)"""
cdef int h2_send_end(H2Stream *s) noexcept nogil
"""END_STREAM, behind the data that waits."""
cdef void h2_reset(H2Stream *s, uint32_t code) noexcept nogil
"""RST_STREAM and closed, without an event; what waits is thrown away. Idle and closed streams: only closed."""
cdef void h2_put_rst(H2 *h, uint32_t sid, uint32_t code) noexcept nogil
"""The frame alone, counted against H2_CONTROL_OUT. Without memory for it the connection fails: the peer would keep the stream forever."""
cdef void h2_drop(H2Stream *s, uint32_t code) noexcept nogil
"""Its owner lets go: reset with code unless it is closed, then out of the connection; s is gone."""
cdef void h2_credit(H2Stream *s, uint32_t n) noexcept nogil
"""n received bytes of this stream are used up: WINDOW_UPDATEs when half a window has come together. (The connection's own window is given
back when its bytes are used up, too.)"""
cdef void h2_credit_conn(H2 *h, uint32_t n) noexcept nogil
"""The same for bytes of a stream that is no more."""
cdef void h2_fail(H2 *h, uint32_t code, const char *why) noexcept nogil
"""An error of the connection: GOAWAY is queued, HF2_FAILED set."""
cdef void h2_goaway(H2 *h, bint last) noexcept nogil
"""A drain, RFC 9113 6.8: first step (last id 2^31-1, new streams still taken), then the last one with the real id. Each once."""
cdef void h2_ping(H2 *h, uint64_t opaque) noexcept nogil
cdef bint h2_pump(H2 *h) noexcept nogil
"""Frame what waits, a frame (16 KiB) a stream and round, until a window, H2_OUT_HIGH or the data ends; ops.writable as streams run empty. True
when the connection's output is full (H2_OUT_HIGH): pump again when it has gone."""
cdef Block *h2_take(H2 *h, uint64_t *bytes) noexcept nogil
"""The chain of ready frames, the caller's from now on; NULL: none."""
cdef char *h2_room(H2 *h, uint32_t n) noexcept nogil
"""Room for n (at most H2_MAX_FRAME + 9) bytes in one piece at the end of the ready frames, or NULL; then h2_made."""
cdef void h2_made(H2 *h, uint32_t n) noexcept nogil
