"""HTTP/2 frames out (L1). See h2_send.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, strlen

from fastmesh._core.base.buf cimport Block, block_data, block_free, block_len, block_new, block_room
from fastmesh._core.base.err cimport FM_EHEAD, FM_ENOMEM, FM_EOF, FM_OK
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proto.h2_frame cimport (
    H2_CONTINUATION, H2_DATA, H2_DEFAULT_WINDOW, H2_F_END_HEADERS, H2_F_END_STREAM, H2_FRAME_HEAD, H2_GOAWAY, H2_HEADERS,
    H2_INTERNAL_ERROR, H2_MAX_FRAME, H2_PING, H2_PREFACE_N, H2_RST_STREAM, H2_S_ENABLE_CONNECT_PROTOCOL, H2_S_ENABLE_PUSH, H2_S_INITIAL_WINDOW_SIZE,
    H2_S_MAX_CONCURRENT_STREAMS, H2_S_MAX_HEADER_LIST_SIZE, H2_SETTINGS, H2_WINDOW_UPDATE, h2_head_put, h2_preface)
from fastmesh._core.proto.h2_head cimport h2_fields_encode, h2_head_encode, h2_head_size
from fastmesh._core.proto.h2_stream cimport (
    HE_SEND_DATA, HE_SEND_END, HE_SEND_HEADERS, HE_SEND_RST, HF2_FAILED, HF2_GOAWAY_SEEN, HF2_GOAWAY_SENT, HF2_GOAWAY_SOON, HF2_SERVER,
    H2N_GOAWAY_OUT, H2N_RST_OUT, HS_CLOSED, HS_HALF_LOCAL, HS_HALF_REMOTE, HS_IDLE, HS_OPEN, HSF_CONNECT, HSF_COUNTED,
    HSF_END_QUEUED, HSF_HEAD_REQ, HSF_HEAD_SENT, HSF_RESET, HSF_WAITING, H2, H2Stream, h2_count, h2_queue_put, h2_queue_take, h2_stream_close,
    h2_stream_event, h2_stream_new, h2_stream_over, h2_stream_release)
from fastmesh._core.proto.msg cimport (
    HF_DROP, M_CONNECT, M_HEAD, MF_RESPONSE, MSG_CAP_HEADERS, MSG_MAX_HEAD, Hdr, Msg, msg_keep, msg_kept_size, msg_load, msg_reset)

cdef enum:
    BLOCK_MOST = 65000           # ready frames lie in blocks of up to 64 KiB; each doubles what lies there already
    BLOCK_FIRST = 2000
    LAST_ID = 0x7fffffff


# ---- room ----------------------------------------------------------------------------------------------------------------------------

cdef char *h2_room(H2 *h, uint32_t n) noexcept nogil:
    cdef Block *b = h.out_tail
    cdef uint32_t size
    if b == NULL or block_room(b) < n:
        size = h.out_n * 2 if h.out_n * 2 < BLOCK_MOST else BLOCK_MOST
        if size < BLOCK_FIRST:
            size = BLOCK_FIRST
        b = block_new(h.bufs, n if n > size else size)
        if b == NULL:
            return NULL
        if h.out_tail == NULL:
            h.out_head = b
        else:
            h.out_tail.next = b
        h.out_tail = b
    return block_data(b) + b.end


cdef void h2_made(H2 *h, uint32_t n) noexcept nogil:
    h.out_tail.end += n
    h.out_n += n


cdef Block *h2_take(H2 *h, uint64_t *bytes) noexcept nogil:
    cdef Block *b = h.out_head
    bytes[0] = h.out_n
    h.out_head = NULL
    h.out_tail = NULL
    h.out_n = 0
    h.out_control = 0
    return b


cdef inline char *put_u32(char *p, uint32_t v) noexcept nogil:
    p[0] = <char>(v >> 24)
    p[1] = <char>(v >> 16)
    p[2] = <char>(v >> 8)
    p[3] = <char>v
    return p + 4


cdef char *put_setting(char *p, uint32_t sid, uint32_t v) noexcept nogil:
    p[0] = 0
    p[1] = <char>sid
    return put_u32(p + 2, v)


# ---- the connection ------------------------------------------------------------------------------------------------------------------

cdef int h2_start(H2 *h) noexcept nogil:
    cdef bint server = h.flags & HF2_SERVER
    cdef char *start = h2_room(h, 128)
    cdef char *p = start
    cdef char *head
    if p == NULL:
        return FM_ENOMEM
    if not server:
        memcpy(p, h2_preface(), H2_PREFACE_N)
        p += H2_PREFACE_N
    head = p
    p += H2_FRAME_HEAD
    if server:
        p = put_setting(p, H2_S_MAX_CONCURRENT_STREAMS, h.limits.max_streams)
        p = put_setting(p, H2_S_ENABLE_CONNECT_PROTOCOL, 1)
    else:
        p = put_setting(p, H2_S_ENABLE_PUSH, 0)
    p = put_setting(p, H2_S_INITIAL_WINDOW_SIZE, h.limits.stream_window)
    p = put_setting(p, H2_S_MAX_HEADER_LIST_SIZE, MSG_MAX_HEAD)
    h2_head_put(head, <uint32_t>(p - head) - H2_FRAME_HEAD, H2_SETTINGS, 0, 0)
    if h.limits.conn_window > H2_DEFAULT_WINDOW:
        p = put_u32(h2_head_put(p, 4, H2_WINDOW_UPDATE, 0, 0), h.limits.conn_window - H2_DEFAULT_WINDOW)
        h.recv_window = h.limits.conn_window
    h2_made(h, <uint32_t>(p - start))
    return FM_OK


cdef void h2_ping(H2 *h, uint64_t opaque) noexcept nogil:
    cdef char *p = h2_room(h, H2_FRAME_HEAD + 8)
    if p != NULL:
        p = h2_head_put(p, 8, H2_PING, 0, 0)
        put_u32(put_u32(p, <uint32_t>(opaque >> 32)), <uint32_t>opaque)
        h2_made(h, H2_FRAME_HEAD + 8)


cdef void goaway(H2 *h, uint32_t last, uint32_t code, const char *why) noexcept nogil:
    cdef uint32_t n = <uint32_t>strlen(why)
    cdef char *p = h2_room(h, H2_FRAME_HEAD + 8 + n)
    h2_count(h, H2N_GOAWAY_OUT)
    if p == NULL:
        return
    p = put_u32(put_u32(h2_head_put(p, 8 + n, H2_GOAWAY, 0, 0), last), code)
    memcpy(p, why, n)
    h2_made(h, H2_FRAME_HEAD + 8 + n)


cdef void h2_fail(H2 *h, uint32_t code, const char *why) noexcept nogil:
    if h.flags & HF2_FAILED:
        return
    h.flags |= HF2_FAILED | HF2_GOAWAY_SENT
    h.error = code
    h.why = why
    goaway(h, h.last_taken, code, why)


cdef void h2_goaway(H2 *h, bint last) noexcept nogil:
    if h.flags & HF2_GOAWAY_SENT:
        return
    if last:
        h.flags |= HF2_GOAWAY_SOON | HF2_GOAWAY_SENT
        goaway(h, h.last_taken, 0, b"")
    elif not h.flags & HF2_GOAWAY_SOON:
        h.flags |= HF2_GOAWAY_SOON
        goaway(h, LAST_ID, 0, b"")


# ---- windows that we give ------------------------------------------------------------------------------------------------------------

cdef bint window_update(H2 *h, uint32_t sid, uint32_t n) noexcept nogil:
    cdef char *p = h2_room(h, H2_FRAME_HEAD + 4)
    if p == NULL:
        return False
    put_u32(h2_head_put(p, 4, H2_WINDOW_UPDATE, 0, sid), n)
    h2_made(h, H2_FRAME_HEAD + 4)
    return True


cdef void h2_credit_conn(H2 *h, uint32_t n) noexcept nogil:
    h.credit += n
    if h.credit >= h.limits.conn_window >> 1 and window_update(h, 0, h.credit):
        h.recv_window += h.credit
        h.credit = 0


cdef void h2_credit(H2Stream *s, uint32_t n) noexcept nogil:
    cdef H2 *h = s.h
    h2_credit_conn(h, n)
    s.credit += n
    if s.state != HS_OPEN and s.state != HS_HALF_LOCAL:
        return                   # it sends no more
    if s.credit >= h.limits.stream_window >> 1 and window_update(h, s.id, s.credit):
        s.recv_window += s.credit
        s.credit = 0


# ---- streams -------------------------------------------------------------------------------------------------------------------------

cdef H2Stream *h2_open(H2 *h) noexcept nogil:
    cdef H2Stream *s
    if h.flags & (HF2_FAILED | HF2_GOAWAY_SEEN) or h.next_local == 0 or h.local_open >= h.peer.max_streams:
        return NULL
    s = h2_stream_new(h, h.next_local)
    if s == NULL:
        return NULL
    h.next_local = h.next_local + 2 if h.next_local < LAST_ID - 1 else 0
    s.flags |= HSF_COUNTED
    h.local_open += 1
    return s


cdef bint step(H2Stream *s, int event) noexcept nogil:
    cdef int to = h2_stream_event(s.state, event)
    if to < 0:
        return False
    s.state = <uint8_t>to
    if to == HS_CLOSED:
        h2_stream_close(s)
    return True


cdef void h2_put_rst(H2 *h, uint32_t sid, uint32_t code) noexcept nogil:
    cdef char *p = h2_room(h, H2_FRAME_HEAD + 4)
    if p == NULL:
        h2_fail(h, H2_INTERNAL_ERROR, b"out of memory")
        return
    put_u32(h2_head_put(p, 4, H2_RST_STREAM, 0, sid), code)
    h2_made(h, H2_FRAME_HEAD + 4)
    h.out_control += H2_FRAME_HEAD + 4


cdef void h2_reset(H2Stream *s, uint32_t code) noexcept nogil:
    cdef H2 *h = s.h
    if s.state != HS_IDLE and s.state != HS_CLOSED and not h.flags & HF2_FAILED:
        h2_count(h, H2N_RST_OUT)
        h2_put_rst(h, s.id, code)
        s.flags |= HSF_RESET
    h2_stream_close(s)


cdef void h2_drop(H2Stream *s, uint32_t code) noexcept nogil:
    h2_reset(s, code)
    h2_stream_release(s)


cdef int put_block(H2 *h, uint32_t sid, const char *p, uint32_t n, int flags) noexcept nogil:
    # a header block that is larger than a frame
    cdef int type = H2_HEADERS
    cdef uint32_t k
    cdef char *out
    while True:
        k = n if n < H2_MAX_FRAME else H2_MAX_FRAME
        out = h2_room(h, H2_FRAME_HEAD + k)
        if out == NULL:
            return FM_ENOMEM
        n -= k
        memcpy(h2_head_put(out, k, type, (flags if type == H2_HEADERS else 0) | (0 if n else H2_F_END_HEADERS), sid), p, k)
        h2_made(h, H2_FRAME_HEAD + k)
        p += k
        if n == 0:
            return FM_OK
        type = H2_CONTINUATION


cdef int put_head(H2Stream *s, const Msg *m, const Hdr *t, int nt, bint end) noexcept nogil:
    # m, or a trailer section. Whatever fails once encoding has begun leaves the peer's table unlike ours: the connection ends.
    cdef H2 *h = s.h
    cdef uint32_t size = 0
    cdef int flags = H2_F_END_STREAM if end else 0
    cdef Block *b = NULL
    cdef char *p
    cdef char *q
    cdef int rc = FM_OK
    cdef int i
    if m != NULL:
        size = h2_head_size(h, m)
    else:
        for i in range(nt):
            size += t[i].name_n + t[i].value_n + 12
        size += 12
    if size <= H2_MAX_FRAME:
        p = h2_room(h, H2_FRAME_HEAD + size)
        if p == NULL:
            return FM_ENOMEM
        q = p + H2_FRAME_HEAD
    else:
        b = block_new(h.bufs, size)
        if b == NULL or b.cap < size:
            block_free(h.bufs, b)
            return FM_ENOMEM
        p = block_data(b)
        q = p
    q = h2_head_encode(h, m, q, q + size) if m != NULL else h2_fields_encode(h, t, nt, q, q + size)
    if q == NULL:
        rc = FM_EHEAD
    elif b == NULL:
        h2_head_put(p, <uint32_t>(q - p) - H2_FRAME_HEAD, H2_HEADERS, flags | H2_F_END_HEADERS, s.id)
        h2_made(h, <uint32_t>(q - p))
    else:
        rc = put_block(h, s.id, p, <uint32_t>(q - p), flags)
    block_free(h.bufs, b)
    if rc != FM_OK:
        h2_fail(h, H2_INTERNAL_ERROR, b"a head could not be written")
        return rc
    step(s, HE_SEND_HEADERS)
    if end:
        step(s, HE_SEND_END)
    return FM_OK


cdef bint fits_list(H2 *h, const Msg *m) noexcept nogil:
    cdef uint64_t n = 0
    cdef uint32_t i
    if h.peer.max_list == ~<uint32_t>0:
        return True
    for i in range(m.nhdr):
        if not m.hdr[i].flags & HF_DROP:
            n += m.hdr[i].name_n + m.hdr[i].value_n + 32
    return n + m.target.n + m.method_name.n + 160 <= h.peer.max_list


cdef int h2_send_head(H2Stream *s, const Msg *m, bint end) noexcept nogil:
    cdef int rc
    if h2_stream_event(s.state, HE_SEND_HEADERS) < 0 or s.h.flags & HF2_FAILED:
        return FM_EOF
    if not fits_list(s.h, m):
        return FM_EHEAD
    rc = put_head(s, m, NULL, 0, end)
    if rc != FM_OK:
        return rc
    if m.flags & MF_RESPONSE:
        if m.status >= 200:
            s.flags |= HSF_HEAD_SENT
    elif m.method == M_HEAD:
        s.flags |= HSF_HEAD_REQ
    elif m.method == M_CONNECT:
        s.flags |= HSF_CONNECT
    return FM_OK


cdef inline uint32_t allowed(const H2Stream *s) noexcept nogil:
    cdef int64_t n = s.send_window if s.send_window < s.h.send_window else s.h.send_window
    if n <= 0:
        return 0
    return <uint32_t>n if n < H2_MAX_FRAME else H2_MAX_FRAME


cdef void sent(H2Stream *s, uint32_t n) noexcept nogil:
    s.send_window -= n
    s.h.send_window -= n
    s.h.data_sent += 1


cdef int queue_data(H2Stream *s, const Slice *v, int n, uint32_t skip) noexcept nogil:
    # all but the first `skip` bytes behind what waits
    cdef H2 *h = s.h
    cdef Block *b = s.out
    cdef Block *more
    cdef const char *p
    cdef uint32_t left, k, total = 0
    cdef int i
    for i in range(n):
        total += v[i].n
    total -= skip
    while b != NULL and b.next != NULL:
        b = b.next
    for i in range(n):
        if skip >= v[i].n:
            skip -= v[i].n
            continue
        p = v[i].p + skip
        left = v[i].n - skip
        skip = 0
        while left:
            if b == NULL or block_room(b) == 0:
                more = block_new(h.bufs, total if total < BLOCK_MOST else BLOCK_MOST)
                if more == NULL:
                    return FM_ENOMEM
                if b == NULL:
                    s.out = more
                else:
                    b.next = more
                b = more
            k = block_room(b) if block_room(b) < left else left
            memcpy(block_data(b) + b.end, p, k)
            b.end += k
            p += k
            left -= k
            total -= k
            s.out_n += k
    return FM_OK


cdef int h2_send_data(H2Stream *s, const Slice *v, int n, bint end) noexcept nogil:
    cdef H2 *h = s.h
    cdef uint32_t total = 0
    cdef uint32_t done = 0
    cdef uint32_t k, take, off = 0
    cdef char *p
    cdef int i = 0
    cdef int rc
    if h2_stream_event(s.state, HE_SEND_DATA) < 0 or s.flags & HSF_END_QUEUED or h.flags & HF2_FAILED:
        return FM_EOF
    for k in range(<uint32_t>n):
        total += v[k].n
    if total == 0:
        return h2_send_end(s) if end else FM_OK
    if s.out_n == 0 and h.out_n < H2_OUT_HIGH:
        while done < total:
            k = allowed(s)
            if k > total - done:
                k = total - done
            if k == 0 or h.out_n >= H2_OUT_HIGH:
                break
            p = h2_room(h, H2_FRAME_HEAD + k)
            if p == NULL:
                return FM_ENOMEM
            done += k
            p = h2_head_put(p, k, H2_DATA, H2_F_END_STREAM if end and done == total else 0, s.id)
            h2_made(h, H2_FRAME_HEAD + k)
            sent(s, k)
            while k:
                take = v[i].n - off
                if take > k:
                    take = k
                memcpy(p, v[i].p + off, take)
                p += take
                off += take
                k -= take
                if off == v[i].n:
                    i += 1
                    off = 0
        if done == total:
            if end:
                step(s, HE_SEND_END)
            return FM_OK
    rc = queue_data(s, v, n, done)
    if rc != FM_OK:
        return rc
    if end:
        s.flags |= HSF_END_QUEUED
    if s.send_window > 0:
        h2_queue_put(s)          # without a window of its own it waits for a WINDOW_UPDATE
    return FM_OK


cdef int h2_send_end(H2Stream *s) noexcept nogil:
    cdef char *p
    if h2_stream_event(s.state, HE_SEND_END) < 0 or s.flags & HSF_END_QUEUED or s.h.flags & HF2_FAILED:
        return FM_EOF
    if s.out_n:
        s.flags |= HSF_END_QUEUED
        return FM_OK
    p = h2_room(s.h, H2_FRAME_HEAD)
    if p == NULL:
        return FM_ENOMEM
    h2_head_put(p, 0, H2_DATA, H2_F_END_STREAM, s.id)
    h2_made(s.h, H2_FRAME_HEAD)
    step(s, HE_SEND_END)
    return FM_OK


cdef int h2_send_trailers(H2Stream *s, const Hdr *t, int n) noexcept nogil:
    cdef Msg m
    cdef Block *kept
    cdef int i
    if n == 0:
        return h2_send_end(s)
    if h2_stream_event(s.state, HE_SEND_END) < 0 or s.flags & HSF_END_QUEUED or s.h.flags & HF2_FAILED:
        return FM_EOF
    if s.out_n == 0:
        return put_head(s, NULL, t, n, True)
    if n > MSG_CAP_HEADERS:
        return FM_EHEAD
    msg_reset(&m, 0)
    for i in range(n):
        m.hdr[i] = t[i]
    m.nhdr = <uint32_t>n
    kept = block_new(s.h.bufs, msg_kept_size(&m))
    if kept == NULL or kept.cap < msg_kept_size(&m):
        block_free(s.h.bufs, kept)
        return FM_ENOMEM
    kept.end = msg_keep(&m, block_data(kept))
    s.trailers = kept
    s.flags |= HSF_END_QUEUED
    return FM_OK


# ---- what waits ----------------------------------------------------------------------------------------------------------------------

cdef bint one_frame(H2Stream *s) noexcept nogil:
    # of what waits in s; False: no window or no memory
    cdef H2 *h = s.h
    cdef uint32_t k = allowed(s)
    cdef bint end
    cdef Block *b
    cdef uint32_t take
    cdef char *p
    if k > s.out_n:
        k = s.out_n
    if k == 0:
        return False
    p = h2_room(h, H2_FRAME_HEAD + k)
    if p == NULL:
        return False
    end = k == s.out_n and s.flags & HSF_END_QUEUED and s.trailers == NULL
    p = h2_head_put(p, k, H2_DATA, H2_F_END_STREAM if end else 0, s.id)
    h2_made(h, H2_FRAME_HEAD + k)
    sent(s, k)
    s.out_n -= k
    while k:
        b = s.out
        take = block_len(b) if block_len(b) < k else k
        memcpy(p, block_data(b) + b.start, take)
        p += take
        k -= take
        b.start += take
        if b.start == b.end:
            s.out = b.next
            block_free(h.bufs, b)
    if end:
        step(s, HE_SEND_END)
    return True


cdef void ran_empty(H2Stream *s) noexcept nogil:
    # nothing waits any more: the trailers, or whoever has more to give
    cdef Msg m
    cdef Block *kept = s.trailers
    cdef int rc
    if kept != NULL:
        s.trailers = NULL
        s.flags &= ~<uint32_t>HSF_END_QUEUED
        msg_load(&m, block_data(kept))
        rc = put_head(s, NULL, m.hdr, <int>m.nhdr, True)
        block_free(s.h.bufs, kept)
        if rc != FM_OK and not s.h.flags & HF2_FAILED:
            # their owner has let them go: he would wait for an end that never comes
            h2_reset(s, H2_INTERNAL_ERROR)
            h2_stream_over(s, H2_INTERNAL_ERROR, False)
        if rc != FM_OK:
            return
    if s.flags & HSF_WAITING:
        s.flags &= ~<uint32_t>HSF_WAITING
        s.h.ops.writable(s.h, s)


cdef bint h2_pump(H2 *h) noexcept nogil:
    cdef H2Stream *s
    while h.sendq != NULL and not h.flags & HF2_FAILED:
        if h.out_n >= H2_OUT_HIGH:
            return True
        if h.send_window <= 0:
            return False
        s = h.sendq
        h2_queue_take(s)
        if not one_frame(s):
            if s.send_window > 0:
                h2_queue_put(s)  # no memory: another time
                return False
            continue             # WINDOW_UPDATE puts it back
        if s.out_n == 0:
            ran_empty(s)
        elif s.send_window > 0:
            h2_queue_put(s)
    return False
