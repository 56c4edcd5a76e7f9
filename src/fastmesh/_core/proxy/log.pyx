"""What is told of an exchange (L3). See log.pxd."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen
from fastmesh._core.base.buf cimport block_data, block_new, block_room
from fastmesh._core.base.sys cimport fm_wall_ns
from fastmesh._core.base.view cimport Slice
from fastmesh._core.net.sock cimport addr_text
from fastmesh._core.proto.msg cimport H_USER_AGENT, H_X_FORWARDED_FOR, H_X_REQUEST_ID, Hdr, Msg, msg_find
from fastmesh._core.proxy.ctx cimport XF_GRPC, XF_LOG, Exchange, Worker
from fastmesh._core.shm.ring cimport LogRec
from fastmesh._core.shm.segment cimport segment_log, segment_log_on
from fastmesh._core.shm.stats cimport (
    ST_RQ_DONE, Hist, Series, SeriesKey, hist_bytes_bin, hist_ms_bin, hist_us_bin, series_get, stat_inc)

cdef enum:
    LOG_STR_MOST = 1024          # a longer string is cut
    ROUTE_MOST = 384             # room for the names of cluster and route: together, the latter is cut
    LOG_REC_MOST = 11408         # 128 + 11 x 1024, and up to 7 of padding
    # LogRec.str_n
    LS_METHOD = 0
    LS_PATH
    LS_AUTHORITY
    LS_USER_AGENT
    LS_XFF
    LS_REQUEST_ID
    LS_UPSTREAM
    LS_CLUSTER
    LS_ROUTE
    LS_DETAILS
    LS_PEER


cdef inline uint32_t cut(uint32_t n) noexcept nogil:
    return n if n < LOG_STR_MOST else LOG_STR_MOST


cdef void keep(Exchange *ex, int which, const char *p, uint32_t n) noexcept nogil:
    n = cut(n)
    if n == 0 or ex.logb == NULL:
        return
    if n > block_room(ex.logb):
        n = block_room(ex.logb)
    memcpy(block_data(ex.logb) + ex.logb.end, p, n)
    ex.logb.end += n
    ex.log_n[which] = <uint16_t>n


cdef void keep_field(Exchange *ex, int which, const Msg *m, int hid) noexcept nogil:
    cdef const Hdr *h = msg_find(m, hid)
    if h != NULL:
        keep(ex, which, h.value, h.value_n)


cdef inline uint32_t field_n(const Msg *m, int hid) noexcept nogil:
    cdef const Hdr *h = msg_find(m, hid)
    return cut(h.value_n) if h != NULL else 0


cdef uint32_t room_for(const Msg *m) noexcept nogil:
    # a request in flight keeps no more than it needs: most strings are short
    return (cut(m.method_name.n) + cut(m.target.n) + cut(m.host.n) + field_n(m, H_USER_AGENT) + field_n(m, H_X_FORWARDED_FOR)
            + field_n(m, H_X_REQUEST_ID) + ROUTE_MOST)


cdef void log_keep_request(Exchange *ex, const Msg *m) noexcept nogil:
    if not segment_log_on(&ex.w.seg):
        return
    ex.flags |= XF_LOG
    ex.logb = block_new(&ex.w.r.bufs, room_for(m))
    keep(ex, LS_METHOD, m.method_name.p, m.method_name.n)
    keep(ex, LS_PATH, m.target.p, m.target.n)
    keep(ex, LS_AUTHORITY, m.host.p, m.host.n)
    keep_field(ex, LS_USER_AGENT, m, H_USER_AGENT)
    keep_field(ex, LS_XFF, m, H_X_FORWARDED_FOR)
    keep_field(ex, LS_REQUEST_ID, m, H_X_REQUEST_ID)


cdef void log_keep_refused(Exchange *ex) noexcept nogil:
    if segment_log_on(&ex.w.seg):
        ex.flags |= XF_LOG


cdef inline void hist_add(Hist *h, uint64_t v, uint32_t bin_index) noexcept nogil:
    h.sum += v
    h.bins[bin_index] += 1


cdef uint32_t put_str(LogRec *rec, char *base, uint32_t at, int which, const char *p, uint32_t n) noexcept nogil:
    n = cut(n)
    memcpy(base + at, p, n)
    rec.str_n[which] = <uint16_t>n
    return at + n


cdef void write_record(Exchange *ex, uint64_t total_us, uint64_t hop_us) noexcept nogil:
    cdef char buf[LOG_REC_MOST]
    cdef LogRec *rec = <LogRec *>buf
    cdef Worker *w = ex.w
    cdef uint32_t at = sizeof(LogRec)
    cdef uint32_t i
    cdef uint32_t from_ = 0
    cdef char text[64]
    memset(rec, 0, sizeof(LogRec))
    rec.status = ex.status
    rec.minor = ex.minor
    rec.direction = ex.direction
    rec.security = ex.security
    rec.grpc = ex.grpc
    rec.authz = ex.authz
    rec.flags = ex.rf
    rec.attempts = ex.tries
    rec.start_wall_ns = fm_wall_ns() - total_us * 1000
    rec.duration_us = total_us
    rec.upstream_us = ex.up_us
    rec.hop_us = hop_us
    rec.rx_bytes = ex.rx_bytes
    rec.tx_bytes = ex.tx_bytes
    rec.peer_port = ex.peer_addr.port
    rec.peer_family = ex.peer_addr.family
    memcpy(rec.peer_addr, ex.peer_addr.a, 16)
    memcpy(rec.trace_id, ex.trace_id, 16)
    for i in range(LS_UPSTREAM):  # kept in this order, each only once
        if ex.logb != NULL and ex.log_n[i]:
            at = put_str(rec, buf, at, i, block_data(ex.logb) + from_, ex.log_n[i])
            from_ += ex.log_n[i]
    if ex.upstream_addr.family:
        at = put_str(rec, buf, at, LS_UPSTREAM, text, addr_text(&ex.upstream_addr, text, 64, True))
    if ex.logb != NULL:
        for i in range(LS_CLUSTER, LS_DETAILS):
            if ex.log_n[i]:
                at = put_str(rec, buf, at, i, block_data(ex.logb) + from_, ex.log_n[i])
                from_ += ex.log_n[i]
    if ex.logb != NULL and ex.log_n[LS_DETAILS]:
        at = put_str(rec, buf, at, LS_DETAILS, block_data(ex.logb) + from_, ex.log_n[LS_DETAILS])
    elif ex.details != NULL:
        at = put_str(rec, buf, at, LS_DETAILS, ex.details, <uint32_t>strlen(ex.details))
    if ex.peer:
        at = put_str(rec, buf, at, LS_PEER, w.seg.peers.id[ex.peer], <uint32_t>strlen(w.seg.peers.id[ex.peer]))
    while at & 7:
        buf[at] = 0
        at += 1
    rec.bytes = at
    segment_log(&w.seg, rec, at)


cdef void log_keep_route(Exchange *ex, Slice cluster, Slice route) noexcept nogil:
    if ex.flags & XF_LOG and ex.log_n[LS_CLUSTER] == 0 and ex.log_n[LS_ROUTE] == 0:
        keep(ex, LS_CLUSTER, cluster.p, cluster.n)
        keep(ex, LS_ROUTE, route.p, route.n)


cdef void log_keep_details(Exchange *ex, Slice text) noexcept nogil:
    if ex.flags & XF_LOG:
        keep(ex, LS_DETAILS, text.p, text.n)


cdef void log_exchange(Exchange *ex, unsigned long long now_ns) noexcept nogil:
    cdef Worker *w = ex.w
    cdef SeriesKey key
    cdef Series *s
    cdef uint64_t total_us = (now_ns - ex.t_start) // 1000 if now_ns > ex.t_start else 0
    cdef uint64_t hop_us
    if ex.t_first and ex.t_sent and ex.t_first > ex.t_sent:
        ex.up_us = (ex.t_first - ex.t_sent) // 1000
    # what this hop added: all that was neither the application's time to its first byte nor the body's way
    if ex.t_first and ex.t_sent:
        hop_us = ((ex.t_sent - ex.t_start if ex.t_sent > ex.t_start else 0) + ex.t_relay) // 1000
    else:
        hop_us = total_us
    memset(&key, 0, sizeof(key))
    key.cluster = ex.plan.cluster
    key.endpoint = ex.cell
    key.flags = ex.rf
    key.status = ex.status
    key.peer = ex.peer
    key.direction = ex.direction
    key.security = ex.security
    key.protocol = 1 if ex.flags & XF_GRPC else 0
    key.grpc = ex.grpc
    key.used = 1
    s = series_get(w.seg.series, w.seg.stats, &key)
    s.count += 1
    hist_add(&s.duration, total_us, hist_ms_bin(total_us))
    if ex.t_first:
        hist_add(&s.upstream, ex.up_us, hist_us_bin(ex.up_us))
    hist_add(&s.hop, hop_us, hist_us_bin(hop_us))
    hist_add(&s.rx_bytes, ex.rx_bytes + ex.head_rx, hist_bytes_bin(ex.rx_bytes + ex.head_rx))
    hist_add(&s.tx_bytes, ex.tx_bytes, hist_bytes_bin(ex.tx_bytes))
    stat_inc(w.seg.stats, ST_RQ_DONE)
    if ex.flags & XF_LOG:
        write_record(ex, total_us, hop_us)
