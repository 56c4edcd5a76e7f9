"""HTTP/2 frame heads and which frame may come where (L1). See h2_frame.pxd."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from fastmesh._core.base.err cimport FM_AGAIN, FM_OK
from fastmesh._core.base.view cimport View, view_left, view_u8, view_u24, view_u32

cdef extern from *:
    """
    #include <stdint.h>

    /* Legality of a frame head: RFC 9113 section 6, a row per type. Lengths are of the payload; a wide range leaves the
       rest to the code that reads the frame, because it is an error of the stream there. */
    typedef struct { uint8_t who, where; uint16_t least, most; } fm_h2_rule;
    enum { H2L_SERVER = 1, H2L_CLIENT = 2, H2L_BOTH = 3,      /* who may receive it */
           H2L_STREAM = 1, H2L_ZERO = 2, H2L_ANY = 3 };       /* on which stream id */
    static const fm_h2_rule fm_h2_rules[10] = {
        [0] = {H2L_BOTH, H2L_STREAM, 0, 16384},     /* DATA */
        [1] = {H2L_BOTH, H2L_STREAM, 0, 16384},     /* HEADERS */
        [2] = {H2L_BOTH, H2L_STREAM, 0, 16384},     /* PRIORITY: 5, else an error of the stream */
        [3] = {H2L_BOTH, H2L_STREAM, 4, 4},         /* RST_STREAM */
        [4] = {H2L_BOTH, H2L_ZERO, 0, 16384},       /* SETTINGS: a multiple of 6, none with ACK */
        [5] = {0, H2L_STREAM, 4, 16384},            /* PUSH_PROMISE: we are never the receiver, push is off */
        [6] = {H2L_BOTH, H2L_ZERO, 8, 8},           /* PING */
        [7] = {H2L_BOTH, H2L_ZERO, 8, 16384},       /* GOAWAY */
        [8] = {H2L_BOTH, H2L_ANY, 4, 4},            /* WINDOW_UPDATE */
        [9] = {H2L_BOTH, H2L_STREAM, 0, 16384},     /* CONTINUATION */
    };
    static const char fm_h2_preface[25] = "PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n";
    """
    ctypedef struct fm_h2_rule:
        uint8_t who
        uint8_t where
        uint16_t least
        uint16_t most
    const fm_h2_rule fm_h2_rules[10]
    const char fm_h2_preface[25]
    enum:
        H2L_SERVER
        H2L_CLIENT
        H2L_STREAM
        H2L_ZERO


cdef const char *h2_preface() noexcept nogil:
    return fm_h2_preface


cdef int h2_head_get(View *v, H2Head *f) noexcept nogil:
    if view_left(v) < H2_FRAME_HEAD:
        return FM_AGAIN
    f.length = view_u24(v)
    f.type = view_u8(v)
    f.flags = view_u8(v)
    f.stream = view_u32(v) & 0x7fffffff
    return FM_OK


cdef int h2_head_check(const H2Head *f, bint server) noexcept nogil:
    cdef const fm_h2_rule *r
    if f.length > H2_MAX_FRAME:
        return H2_FRAME_SIZE_ERROR
    if f.type >= H2_TYPES:
        return H2_NO_ERROR           # RFC 9113 4.1: ignored
    r = &fm_h2_rules[f.type]
    if not r.who & (H2L_SERVER if server else H2L_CLIENT):
        return H2_PROTOCOL_ERROR
    if not r.where & (H2L_STREAM if f.stream else H2L_ZERO):
        return H2_PROTOCOL_ERROR
    if f.length < r.least or f.length > r.most:
        return H2_FRAME_SIZE_ERROR
    return H2_NO_ERROR


cdef char *h2_head_put(char *p, uint32_t length, int type, int flags, uint32_t stream) noexcept nogil:
    p[0] = <char>(length >> 16)
    p[1] = <char>(length >> 8)
    p[2] = <char>length
    p[3] = <char>type
    p[4] = <char>flags
    p[5] = <char>(stream >> 24)
    p[6] = <char>(stream >> 16)
    p[7] = <char>(stream >> 8)
    p[8] = <char>stream
    return p + H2_FRAME_HEAD
