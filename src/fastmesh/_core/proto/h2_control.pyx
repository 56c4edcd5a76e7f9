"""HTTP/2 frames that carry no message (L1). See h2_control.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy
from fastmesh._core.base.view cimport View, view_left, view_u16, view_u32
from fastmesh._core.proto.h2_frame cimport (
    H2_F_ACK, H2_FLOW_CONTROL_ERROR, H2_FRAME_HEAD, H2_FRAME_SIZE_ERROR, H2_GOAWAY, H2_INTERNAL_ERROR, H2_MAX_FRAME, H2_PING,
    H2_PRIORITY, H2_PROTOCOL_ERROR, H2_REFUSED_STREAM, H2_RST_STREAM, H2_S_ENABLE_CONNECT_PROTOCOL, H2_S_ENABLE_PUSH,
    H2_S_HEADER_TABLE_SIZE, H2_S_INITIAL_WINDOW_SIZE, H2_S_MAX_CONCURRENT_STREAMS, H2_S_MAX_FRAME_SIZE, H2_S_MAX_HEADER_LIST_SIZE,
    H2_SETTINGS, H2_WINDOW_MOST, H2_WINDOW_UPDATE, H2Head, h2_head_put)
from fastmesh._core.proto.h2_send cimport h2_fail, h2_made, h2_room
from fastmesh._core.proto.h2_stream cimport (
    HF2_FAILED, HF2_GOAWAY_SEEN, HF2_SERVER, HF2_SETTINGS_ACKED, H2N_GOAWAY_IN, H2N_PINGS, H2N_RST_IN, H2N_SETTINGS,
    H2N_UPDATES, HS_CLOSED, HSF_HEAD_SENT, H2, H2Stream, h2_count, h2_queue_put, h2_stream_close, h2_stream_find,
    h2_stream_over)
from fastmesh._core.proto.hpack_enc cimport hpack_enc_limit
from fastmesh._core.proto.h2_limits cimport (
    H2_PINGS, H2_SETTINGS_MOST, H2_SETTINGS_RATE, H2_UPDATES, h2_broken, h2_empty, h2_idle, h2_reset_gone, h2_stream_error,
    h2_takes_back, h2_theirs, h2_too_much)


cdef void initial_window(H2 *h, uint32_t v) noexcept nogil:
    # RFC 9113 6.9.2: also the streams that are there; a window may turn negative
    cdef int64_t delta = <int64_t>v - h.peer.window
    cdef H2Stream *s
    cdef uint32_t i
    h.peer.window = v
    for i in range(h.buckets):
        s = h.table[i]
        while s != NULL:
            s.send_window += delta
            if s.send_window > H2_WINDOW_MOST:
                h2_broken(h, H2_FLOW_CONTROL_ERROR, b"SETTINGS_INITIAL_WINDOW_SIZE overflows a window")
                return
            if s.out_n and s.send_window > 0:
                h2_queue_put(s)
            s = s.hnext


cdef void setting(H2 *h, uint32_t which, uint32_t v) noexcept nogil:
    if which == H2_S_HEADER_TABLE_SIZE:
        hpack_enc_limit(&h.enc, v)
    elif which == H2_S_ENABLE_PUSH:
        if v > 1 or (v and not h.flags & HF2_SERVER):
            h2_broken(h, H2_PROTOCOL_ERROR, b"SETTINGS_ENABLE_PUSH")
    elif which == H2_S_MAX_CONCURRENT_STREAMS:
        h.peer.max_streams = v
    elif which == H2_S_INITIAL_WINDOW_SIZE:
        if v > H2_WINDOW_MOST:
            h2_broken(h, H2_FLOW_CONTROL_ERROR, b"SETTINGS_INITIAL_WINDOW_SIZE")
        else:
            initial_window(h, v)
    elif which == H2_S_MAX_FRAME_SIZE:
        if v < H2_MAX_FRAME or v > 0xffffff:
            h2_broken(h, H2_PROTOCOL_ERROR, b"SETTINGS_MAX_FRAME_SIZE")
        else:
            h.peer.max_frame = v
    elif which == H2_S_MAX_HEADER_LIST_SIZE:
        h.peer.max_list = v
    elif which == H2_S_ENABLE_CONNECT_PROTOCOL:
        if v > 1 or v < h.peer.connect_protocol:
            h2_broken(h, H2_PROTOCOL_ERROR, b"SETTINGS_ENABLE_CONNECT_PROTOCOL")
        else:
            h.peer.connect_protocol = <uint8_t>v


cdef void acknowledge(H2 *h, int type, const char *p, uint32_t n) noexcept nogil:
    cdef char *out = h2_room(h, H2_FRAME_HEAD + n)
    if out == NULL:
        h2_fail(h, H2_INTERNAL_ERROR, b"out of memory")
        return
    out = h2_head_put(out, n, type, H2_F_ACK, 0)
    if n:
        memcpy(out, p, n)
    h2_made(h, H2_FRAME_HEAD + n)
    h.out_control += H2_FRAME_HEAD + n


cdef void on_settings(H2 *h, const H2Head *f, View *v) noexcept nogil:
    cdef uint32_t which
    if f.flags & H2_F_ACK:
        if f.length:
            h2_broken(h, H2_FRAME_SIZE_ERROR, b"SETTINGS acknowledged with a payload")
        h.flags |= HF2_SETTINGS_ACKED
        return
    if f.length % 6:
        h2_broken(h, H2_FRAME_SIZE_ERROR, b"SETTINGS cut short")
        return
    h.settings_n += 1
    if h.settings_n > H2_SETTINGS_RATE or f.length > H2_SETTINGS_MOST * 6:
        h2_too_much(h, H2N_SETTINGS, b"too many SETTINGS")
        return
    if not h.peer.seen:
        h.peer.seen = 1
        h.peer.max_streams = ~<uint32_t>0
    while view_left(v) and not h.flags & HF2_FAILED:
        which = view_u16(v)
        setting(h, which, view_u32(v))
    if not h.flags & HF2_FAILED:
        acknowledge(h, H2_SETTINGS, NULL, 0)
        h.ops.settings(h)


cdef void on_ping(H2 *h, const H2Head *f, View *v) noexcept nogil:
    if f.flags & H2_F_ACK:
        return
    h.pings += 1
    if h.pings > H2_PINGS:
        h2_too_much(h, H2N_PINGS, b"too many PINGs")
        return
    acknowledge(h, H2_PING, <const char *>v.p, 8)


cdef void on_window_update(H2 *h, const H2Head *f, View *v) noexcept nogil:
    cdef uint32_t n = view_u32(v) & 0x7fffffff
    cdef H2Stream *s
    h.updates += 1
    if h.updates > H2_UPDATES + 10 * h.data_sent:
        h2_too_much(h, H2N_UPDATES, b"too many WINDOW_UPDATEs")
        return
    if f.stream == 0:
        h.send_window += n
        if n == 0:
            h2_broken(h, H2_PROTOCOL_ERROR, b"WINDOW_UPDATE of 0")
        elif h.send_window > H2_WINDOW_MOST:
            h2_broken(h, H2_FLOW_CONTROL_ERROR, b"WINDOW_UPDATE overflows the connection's window")
        return
    s = h2_stream_find(h, f.stream)
    if s == NULL or s.state == HS_CLOSED:
        if s == NULL and h2_idle(h, f.stream):
            h2_broken(h, H2_PROTOCOL_ERROR, b"WINDOW_UPDATE on an idle stream")
        return
    if n == 0:
        h2_stream_error(s, H2_PROTOCOL_ERROR)
        return
    s.send_window += n
    if s.send_window > H2_WINDOW_MOST:
        h2_stream_error(s, H2_FLOW_CONTROL_ERROR)
    elif s.out_n and s.send_window > 0:
        h2_queue_put(s)


cdef void on_rst(H2 *h, const H2Head *f, View *v) noexcept nogil:
    cdef uint32_t code = view_u32(v)
    cdef H2Stream *s = h2_stream_find(h, f.stream)
    h2_count(h, H2N_RST_IN)
    if s == NULL or s.state == HS_CLOSED:
        if s == NULL and h2_idle(h, f.stream):
            h2_broken(h, H2_PROTOCOL_ERROR, b"RST_STREAM on an idle stream")
        return
    if h.flags & HF2_SERVER and not s.flags & HSF_HEAD_SENT and h2_takes_back(h):
        return
    h2_stream_close(s)
    h2_stream_over(s, code, True)


cdef void on_priority(H2 *h, const H2Head *f, View *v) noexcept nogil:
    cdef H2Stream *s = h2_stream_find(h, f.stream)
    cdef uint32_t code = H2_FRAME_SIZE_ERROR if f.length != 5 else H2_PROTOCOL_ERROR
    h2_empty(h)
    if f.length == 5 and view_u32(v) & 0x7fffffff != f.stream:
        return
    if s != NULL and s.state != HS_CLOSED:
        h2_stream_error(s, code)
    elif h2_idle(h, f.stream):
        h2_broken(h, code, b"PRIORITY")
    else:
        h2_reset_gone(h, f.stream, code)


cdef H2Stream *beyond(H2 *h, uint32_t last) noexcept nogil:
    # one of ours that the peer says it has not seen
    cdef H2Stream *s
    cdef uint32_t i
    for i in range(h.buckets):
        s = h.table[i]
        while s != NULL:
            if not h2_theirs(h, s.id) and s.id > last and s.state != HS_CLOSED:
                return s
            s = s.hnext
    return NULL


cdef void on_goaway(H2 *h, View *v) noexcept nogil:
    cdef uint32_t last = view_u32(v) & 0x7fffffff
    cdef uint32_t code = view_u32(v)
    cdef H2Stream *s
    h2_count(h, H2N_GOAWAY_IN)
    h.flags |= HF2_GOAWAY_SEEN
    if last < h.goaway_last:
        h.goaway_last = last
    s = beyond(h, h.goaway_last)
    while s != NULL:
        h2_stream_close(s)
        h2_stream_over(s, H2_REFUSED_STREAM, True)
        s = beyond(h, h.goaway_last)
    h.ops.goaway(h, h.goaway_last, code)


cdef void h2_control(H2 *h, const H2Head *f, View *v) noexcept nogil:
    if f.type == H2_WINDOW_UPDATE:
        on_window_update(h, f, v)
    elif f.type == H2_RST_STREAM:
        on_rst(h, f, v)
    elif f.type == H2_SETTINGS:
        on_settings(h, f, v)
    elif f.type == H2_PING:
        on_ping(h, f, v)
    elif f.type == H2_GOAWAY:
        on_goaway(h, v)
    elif f.type == H2_PRIORITY:
        on_priority(h, f, v)
    else:
        h2_empty(h)              # a type that we do not know: RFC 9113 5.5
