"""HTTP/2 frames in (L1). See h2_recv.pxd.

A callback may end or release any stream: whatever is used after one is looked up again.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from fastmesh._core.base.buf cimport Block, block_data, block_free, block_grow, block_new, block_room
from fastmesh._core.base.err cimport FM_EBAD, FM_EH2, FM_EHEAD, FM_EHPACK, FM_ENOMEM, FM_ETRAILER, FM_OK
from fastmesh._core.base.view cimport View, view_left, view_of, view_u8, view_u32
from fastmesh._core.proto.h2_frame cimport (
    H2_COMPRESSION_ERROR, H2_CONTINUATION, H2_DATA, H2_F_ACK, H2_F_END_HEADERS, H2_F_END_STREAM, H2_F_PADDED, H2_F_PRIORITY,
    H2_FLOW_CONTROL_ERROR, H2_FRAME_HEAD, H2_FRAME_SIZE_ERROR, H2_HEADERS, H2_INTERNAL_ERROR, H2_PREFACE_N, H2_PROTOCOL_ERROR,
    H2_REFUSED_STREAM, H2_SETTINGS, H2_STREAM_CLOSED, H2Head, h2_head_check, h2_head_get, h2_preface)
from fastmesh._core.proto.h2_head cimport H2_REQUEST, H2_RESPONSE, H2_TRAILERS, h2_head_decode
from fastmesh._core.proto.h2_send cimport h2_credit, h2_credit_conn, h2_drop, h2_fail, h2_put_rst
from fastmesh._core.proto.h2_stream cimport (
    HE_RECV_DATA, HE_RECV_END, HE_RECV_HEADERS, HF2_FAILED, HF2_GOAWAY_SENT, HF2_PREFACE, HF2_SERVER, HF2_SETTINGS_ACKED,
    HG_ENDED, HG_RESET, HG_UNUSED, H2N_CONTINUATIONS, H2N_CONTROL_OUT, H2N_HEADER_LIST, H2N_REFUSED, HS_CLOSED, HSF_CONNECT, HSF_COUNTED,
    HSF_HEAD_REQ, HSF_HEAD_SEEN, HSF_HEAD_SENT, HSF_WAITING, H2, H2Stream, h2_count, h2_stream_close, h2_stream_event, h2_stream_find, h2_stream_forget,
    h2_stream_gone, h2_stream_new)
from fastmesh._core.proto.msg cimport BODY_CHUNKED, BODY_LENGTH, BODY_NONE, BODY_TUNNEL, M_CONNECT, MSG_MAX_HEAD, Msg
from fastmesh._core.proto.h2_limits cimport (
    H2_CONTINUATIONS, H2_CONTROL_OUT, h2_broken, h2_empty, h2_idle, h2_new_second, h2_reset_gone, h2_stream_error, h2_theirs,
    h2_too_much)
from fastmesh._core.proto.h2_control cimport h2_control


cdef enum:  # opened_by_peer
    REFUSE_IT = 1                # and count it as the peer's doing
    REFUSE_MILDLY


# ---- DATA ----------------------------------------------------------------------------------------------------------------------------

cdef void data_begin(H2 *h, const H2Head *f, uint32_t pad) noexcept nogil:
    # pad: bytes of padding, its length byte included
    cdef H2Stream *s = h2_stream_find(h, f.stream)
    cdef uint32_t n = f.length - pad
    cdef bint end = f.flags & H2_F_END_STREAM
    h.recv_window -= f.length
    h.data_stream = f.stream
    h.data_left = n
    h.pad_left = pad
    h.data_end = end
    if h.recv_window < 0:
        h2_broken(h, H2_FLOW_CONTROL_ERROR, b"DATA beyond the connection's window")
        return
    if n == 0 and not end and s != NULL:
        h2_empty(h)
    if s == NULL:
        if h2_idle(h, f.stream):
            h2_broken(h, H2_PROTOCOL_ERROR, b"DATA on an idle stream")
        elif h2_stream_gone(h, f.stream) < HG_RESET:
            h2_reset_gone(h, f.stream, H2_STREAM_CLOSED)
        elif n == 0:
            h2_empty(h)
        return
    if s.state == HS_CLOSED:
        return
    if h2_stream_event(s.state, HE_RECV_DATA) < 0:
        h2_stream_error(s, H2_STREAM_CLOSED)
        return
    s.recv_window -= f.length
    if s.recv_window < 0:
        h2_stream_error(s, H2_FLOW_CONTROL_ERROR)
        return
    if s.body_left >= 0:
        s.body_left -= n
        if s.body_left < 0 or (end and s.body_left != 0):
            h2_stream_error(s, H2_PROTOCOL_ERROR)  # RFC 9113 8.1.1: content-length and DATA disagree
            return
    if not h.flags & HF2_SERVER and not s.flags & HSF_HEAD_SEEN:
        h2_stream_error(s, H2_PROTOCOL_ERROR)  # DATA before the head


cdef void ended(H2Stream *s) noexcept nogil:
    s.state = <uint8_t>h2_stream_event(s.state, HE_RECV_END)
    if s.state == HS_CLOSED:
        h2_stream_close(s)


cdef void used_up(H2 *h, uint32_t n) noexcept nogil:
    # padding of the frame at hand
    cdef H2Stream *s = h2_stream_find(h, h.data_stream)
    if s != NULL:
        h2_credit(s, n)
    else:
        h2_credit_conn(h, n)


cdef uint32_t data_go_on(H2 *h, const char *p, uint32_t n) noexcept nogil:
    # bytes used of p[0:n]
    cdef H2Stream *s
    cdef uint32_t k = h.data_left if h.data_left < n else n
    cdef uint32_t skip
    cdef bint end
    if k or (h.data_left == 0 and h.data_end):
        h.data_left -= k
        end = h.data_end and h.data_left == 0
        s = h2_stream_find(h, h.data_stream)
        if s == NULL or h2_stream_event(s.state, HE_RECV_DATA) < 0 or s.owner == NULL:
            h2_credit_conn(h, k)
            if end and s != NULL and s.owner == NULL and h2_stream_event(s.state, HE_RECV_END) >= 0:
                ended(s)
        else:
            if end:
                ended(s)
            h.ops.data(h, s, p, k, end)
        if end:
            h.data_end = 0
    if h.data_left or h.flags & HF2_FAILED:
        return k
    skip = h.pad_left if h.pad_left < n - k else n - k
    if skip:
        h.pad_left -= skip
        used_up(h, skip)
    return k + skip


# ---- HEADERS -------------------------------------------------------------------------------------------------------------------------

cdef void request_head(H2 *h, H2Stream *s, Msg *m, bint end) noexcept nogil:
    s.body_left = m.content_length
    if m.method == M_CONNECT:
        s.flags |= HSF_CONNECT
        m.body = BODY_TUNNEL
        s.body_left = -1
    elif end:
        m.body = BODY_NONE
    else:
        m.body = <uint8_t>(BODY_LENGTH if m.content_length >= 0 else BODY_CHUNKED)
    if end and s.body_left > 0:
        h2_stream_error(s, H2_PROTOCOL_ERROR)
        return
    h.last_taken = s.id
    if end:
        ended(s)
    h.ops.head(h, s, m, end)


cdef void untaken(H2 *h, uint32_t sid) noexcept nogil:
    # a request that nobody has made his: it would get no credit and never go
    cdef H2Stream *s = h2_stream_find(h, sid)
    if s != NULL and s.owner == NULL and not s.flags & HSF_WAITING:  # one that is answered already, and only has to be sent
        h2_drop(s, H2_INTERNAL_ERROR if s.flags & HSF_HEAD_SENT else H2_REFUSED_STREAM)


cdef void response_head(H2 *h, H2Stream *s, Msg *m, bint end) noexcept nogil:
    if m.status < 200:
        if end:
            h2_stream_error(s, H2_PROTOCOL_ERROR)
        else:
            h.ops.head(h, s, m, False)
        return
    s.flags |= HSF_HEAD_SEEN
    if s.flags & HSF_CONNECT and 200 <= m.status < 300:
        m.body = BODY_TUNNEL
    elif s.flags & HSF_HEAD_REQ or m.status == 204 or m.status == 304:
        m.body = BODY_NONE
        s.body_left = -1 if end else 0
    else:
        m.body = <uint8_t>(BODY_NONE if end else (BODY_LENGTH if m.content_length >= 0 else BODY_CHUNKED))
        s.body_left = m.content_length
        if end and m.content_length > 0:
            h2_stream_error(s, H2_PROTOCOL_ERROR)
            return
    if end:
        ended(s)
    h.ops.head(h, s, m, end)


cdef void trailer_section(H2 *h, H2Stream *s, Msg *m, bint end) noexcept nogil:
    if not end or s.body_left > 0:
        h2_stream_error(s, H2_PROTOCOL_ERROR)
        return
    ended(s)
    h.ops.trailers(h, s, m.hdr, <int>m.nhdr)


cdef H2Stream *opened_by_peer(H2 *h, uint32_t sid, int *refuse) noexcept nogil:
    # NULL: the block is decoded and thrown away; *refuse: and the stream is reset
    cdef H2Stream *s
    h.last_remote = sid
    h.opened += 1
    if h.flags & HF2_GOAWAY_SENT:
        h2_stream_forget(h, sid, True)
        return NULL              # RFC 9113 6.8: above the last id, so not seen, and what follows is not either
    if h.remote_open >= h.limits.max_streams:
        h2_count(h, H2N_REFUSED)
        # before it has seen our limit the peer cannot keep it
        refuse[0] = REFUSE_IT if h.flags & HF2_SETTINGS_ACKED else REFUSE_MILDLY
        return NULL
    s = h2_stream_new(h, sid)
    if s == NULL:
        refuse[0] = REFUSE_MILDLY  # our memory
        return NULL
    s.flags |= HSF_COUNTED
    h.remote_open += 1
    s.state = <uint8_t>h2_stream_event(s.state, HE_RECV_HEADERS)
    return s


cdef void late_head(H2 *h, uint32_t sid) noexcept nogil:
    # on a stream that is no more: it is decoded for the tables' sake
    cdef int gone = h2_stream_gone(h, sid)
    if gone == HG_UNUSED:
        h2_broken(h, H2_PROTOCOL_ERROR, b"HEADERS with a stream id below one that was used")
    elif gone == HG_ENDED:
        h2_broken(h, H2_STREAM_CLOSED, b"HEADERS on a closed stream")
    elif h.late:
        h.late -= 1
    else:
        h2_empty(h)


cdef void whole_block(H2 *h, uint32_t sid, uint32_t flags, const char *p, uint32_t n) noexcept nogil:
    cdef H2Stream *s = h2_stream_find(h, sid)
    cdef Msg *m = h.msg
    cdef bint end = flags & H2_F_END_STREAM
    cdef int kind = H2_TRAILERS
    cdef int refuse = 0
    cdef int rc
    if s == NULL:
        if h2_theirs(h, sid) and h.flags & HF2_SERVER and h2_idle(h, sid):
            kind = H2_REQUEST
            s = opened_by_peer(h, sid, &refuse)
        elif h2_idle(h, sid) or not (sid & 1):
            h2_broken(h, H2_PROTOCOL_ERROR, b"HEADERS on a stream that the peer cannot open")
            return
        else:
            late_head(h, sid)
            if h.flags & HF2_FAILED:
                return
    elif not h.flags & HF2_SERVER and not s.flags & HSF_HEAD_SEEN:
        kind = H2_RESPONSE
    rc = h2_head_decode(h, kind, p, n, m)
    if rc == FM_EHPACK:
        h2_broken(h, H2_COMPRESSION_ERROR, b"a header block that cannot be decoded")
        return
    if rc == FM_ENOMEM:
        h2_fail(h, H2_INTERNAL_ERROR, b"out of memory")
        return
    if s == NULL:
        if refuse == REFUSE_IT:
            h2_reset_gone(h, sid, H2_REFUSED_STREAM)
        elif refuse == REFUSE_MILDLY:
            h2_put_rst(h, sid, H2_REFUSED_STREAM)
        if refuse:
            h2_stream_forget(h, sid, True)
        return
    if s.state == HS_CLOSED:
        return
    if kind != H2_REQUEST and h2_stream_event(s.state, HE_RECV_HEADERS) < 0:
        h2_stream_error(s, H2_STREAM_CLOSED)
    elif rc == FM_EBAD or rc == FM_ETRAILER or (rc != FM_OK and kind != H2_REQUEST):
        h2_stream_error(s, H2_PROTOCOL_ERROR)
    elif rc != FM_OK:
        if rc == FM_EHEAD:
            h2_count(h, H2N_HEADER_LIST)
        h.last_taken = sid
        if end:
            ended(s)
        h.ops.refused(h, s, rc)
        untaken(h, sid)
    elif kind == H2_REQUEST:
        request_head(h, s, m, end)
        untaken(h, sid)
    elif kind == H2_RESPONSE:
        response_head(h, s, m, end)
    else:
        trailer_section(h, s, m, end)


cdef void keep_fragment(H2 *h, View *v) noexcept nogil:
    cdef uint32_t n = <uint32_t>view_left(v)
    cdef Block *b
    if h.block_frames > H2_CONTINUATIONS or (h.block != NULL and h.block.end + n > MSG_MAX_HEAD):
        h2_too_much(h, H2N_CONTINUATIONS, b"a header block in too many frames or bytes")
        return
    if h.block == NULL:
        h.block = block_new(h.bufs, n if n > 4000 else 4000)
    while h.block != NULL and block_room(h.block) < n:
        b = block_grow(h.bufs, h.block)
        if b == NULL:
            block_free(h.bufs, h.block)
        h.block = b
    if h.block == NULL:
        h2_fail(h, H2_INTERNAL_ERROR, b"out of memory")
        return
    memcpy(block_data(h.block) + h.block.end, v.p, n)
    h.block.end += n


cdef void on_headers(H2 *h, const H2Head *f, View *v) noexcept nogil:
    cdef uint32_t pad = 0
    cdef uint32_t parent
    cdef H2Stream *s
    if f.flags & H2_F_PADDED:
        pad = view_u8(v)
    if f.flags & H2_F_PRIORITY:
        parent = view_u32(v) & 0x7fffffff
        view_u8(v)
        if not v.bad and parent == f.stream:
            h2_broken(h, H2_PROTOCOL_ERROR, b"a stream that depends on itself")
            return
    if v.bad:
        h2_broken(h, H2_FRAME_SIZE_ERROR, b"HEADERS cut short")
        return
    if pad > view_left(v):
        h2_broken(h, H2_PROTOCOL_ERROR, b"more padding than payload")
        return
    v.end -= pad
    if f.flags & H2_F_END_HEADERS:
        whole_block(h, f.stream, f.flags, <const char *>v.p, <uint32_t>view_left(v))
        return
    if view_left(v) == 0:
        h2_empty(h)
    h.block_stream = f.stream
    h.block_flags = f.flags
    h.block_frames = 0
    keep_fragment(h, v)


cdef void on_continuation(H2 *h, const H2Head *f, View *v) noexcept nogil:
    cdef uint32_t sid = h.block_stream
    cdef Block *b
    h.block_frames += 1
    if view_left(v) == 0 and not f.flags & H2_F_END_HEADERS:
        h2_empty(h)
    keep_fragment(h, v)
    if h.flags & HF2_FAILED or not f.flags & H2_F_END_HEADERS:
        return
    b = h.block
    h.block = NULL
    h.block_stream = 0
    whole_block(h, sid, h.block_flags, block_data(b), b.end)
    block_free(h.bufs, b)


# ---- the connection's bytes ----------------------------------------------------------------------------------------------------------

cdef void frame(H2 *h, const H2Head *f, View *v) noexcept nogil:
    if f.type == H2_HEADERS:
        on_headers(h, f, v)
    elif f.type == H2_CONTINUATION:
        on_continuation(h, f, v)
    else:
        h2_control(h, f, v)


cdef bint in_place(H2 *h, const H2Head *f) noexcept nogil:
    cdef int code = h2_head_check(f, h.flags & HF2_SERVER)
    if code:
        h2_broken(h, <uint32_t>code, b"a frame that may not be here")
    elif not h.peer.seen and (f.type != H2_SETTINGS or f.flags & H2_F_ACK):
        h2_broken(h, H2_PROTOCOL_ERROR, b"the first frame is not SETTINGS")
    elif h.block_stream and (f.type != H2_CONTINUATION or f.stream != h.block_stream):
        h2_broken(h, H2_PROTOCOL_ERROR, b"another frame within a header block")
    elif f.type == H2_CONTINUATION and not h.block_stream:
        h2_broken(h, H2_PROTOCOL_ERROR, b"CONTINUATION of nothing")
    return not h.flags & HF2_FAILED


cdef int h2_recv(H2 *h, const char *p, uint32_t n, uint64_t now_ms) noexcept nogil:
    cdef uint32_t at = 0
    cdef uint32_t pad
    cdef H2Head f
    cdef View v
    if now_ms // 1000 != h.second:
        h2_new_second(h, now_ms // 1000)
    if not h.flags & HF2_PREFACE:
        if memcmp(p, h2_preface(), n if n < H2_PREFACE_N else H2_PREFACE_N) != 0:
            h2_broken(h, H2_PROTOCOL_ERROR, b"not HTTP/2's preface")
        elif n < H2_PREFACE_N:
            return 0
        h.flags |= HF2_PREFACE
        at = H2_PREFACE_N
    while not h.flags & HF2_FAILED:
        if h.out_control > H2_CONTROL_OUT:
            h2_too_much(h, H2N_CONTROL_OUT, b"answers to control frames are not read")
            break
        if h.data_left or h.pad_left or h.data_end:
            if at == n and (h.data_left or h.pad_left):
                return <int>at
            at += data_go_on(h, p + at, n - at)
            continue
        v = view_of(p + at, n - at)
        if h2_head_get(&v, &f) != FM_OK:
            return <int>at
        if not in_place(h, &f):
            break
        if f.type == H2_DATA:
            pad = 0
            if f.flags & H2_F_PADDED:
                if f.length == 0:
                    h2_broken(h, H2_FRAME_SIZE_ERROR, b"DATA cut short")
                    break
                if view_left(&v) == 0:
                    return <int>at
                pad = <uint32_t>view_u8(&v) + 1
                if pad > f.length:
                    h2_broken(h, H2_PROTOCOL_ERROR, b"more padding than payload")
                    break
                at += 1
            at += H2_FRAME_HEAD
            data_begin(h, &f, pad)
            if pad:
                h.pad_left -= 1  # its length has been read
                used_up(h, 1)
            continue
        if view_left(&v) < f.length:
            return <int>at
        v.end = v.p + f.length
        at += H2_FRAME_HEAD + f.length
        frame(h, &f, &v)
    return FM_EH2
