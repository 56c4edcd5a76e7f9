"""What is told of a TCP session (L3). See tcp_log.pxd."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen
from fastmesh._core.base.buf cimport block_data, block_free, block_new
from fastmesh._core.base.sys cimport fm_clock_ns, fm_wall_ns
from fastmesh._core.base.timer cimport timer_armed, timer_set
from fastmesh._core.base.view cimport Slice
from fastmesh._core.net.sock cimport addr_text
from fastmesh._core.proxy.ctx cimport TF_CONNECTED, TF_DENIED, Down, Tcp, Worker
from fastmesh._core.proxy.down cimport down_bytes
from fastmesh._core.shm.ring cimport LOG_TCP, LogRec
from fastmesh._core.shm.segment cimport segment_log, segment_log_on
from fastmesh._core.shm.stats cimport (
    ST_TCP_DONE, ST_TCP_OPEN, ST_UP_BYTES_RX, ST_UP_BYTES_TX, Series, SeriesKey, hist_bytes_bin, hist_ms_bin, series_get, stat_add, stat_inc)

cdef enum:
    NAME_MOST = 512              # of a name in the record: a host, a cluster, a route
    REC_MOST = 2560              # LogRec, three names, two addresses, details, a SPIFFE ID
    PROTOCOL_TCP = 2             # SeriesKey.protocol
    LS_AUTHORITY = 2             # LogRec.str_n
    LS_UPSTREAM = 6
    LS_CLUSTER
    LS_ROUTE
    LS_DETAILS
    LS_PEER


cdef void tcp_log_keep(Tcp *t, Slice name, Slice cluster, Slice route) noexcept nogil:
    cdef Slice v[3]
    cdef uint32_t n = 0
    cdef int i
    if not segment_log_on(&t.w.seg):
        return
    v[0] = name
    v[1] = cluster
    v[2] = route
    for i in range(3):
        if v[i].n > NAME_MOST:
            v[i].n = NAME_MOST
        n += v[i].n
    block_free(&t.w.r.bufs, t.names)
    t.names = block_new(&t.w.r.bufs, n) if n else NULL
    if t.names == NULL:
        return
    n = 0
    for i in range(3):
        if v[i].n:
            memcpy(block_data(t.names) + n, v[i].p, v[i].n)
        t.name_n[i] = <uint16_t>v[i].n
        n += v[i].n


cdef Series *series_of(Tcp *t, uint32_t flags) noexcept nogil:
    cdef SeriesKey key
    memset(&key, 0, sizeof(key))
    key.cluster = t.cluster
    key.endpoint = t.cell
    key.flags = flags
    key.peer = t.peer
    key.direction = t.direction
    key.security = t.security
    key.protocol = PROTOCOL_TCP
    key.used = 1
    return series_get(t.w.seg.series, t.w.seg.stats, &key)


cdef void tcp_log_opened(Tcp *t) noexcept nogil:
    t.flags |= TF_CONNECTED
    stat_inc(t.w.seg.stats, ST_TCP_OPEN)
    series_of(t, 0).opened += 1


cdef void tcp_log_tell(Tcp *t) noexcept nogil:
    cdef Series *s
    if t.rx_bytes == t.told_rx and t.tx_bytes == t.told_tx:
        return
    # one series for the bytes, whatever the session's end will be
    s = series_of(t, 0)
    s.rx_bytes.sum += t.rx_bytes - t.told_rx
    s.tx_bytes.sum += t.tx_bytes - t.told_tx
    t.told_rx = t.rx_bytes
    t.told_tx = t.tx_bytes
    if t.conn != NULL:
        down_bytes(<Down *>t)
    if t.up != NULL:
        stat_add(t.w.seg.stats, ST_UP_BYTES_RX, t.up.rx)
        stat_add(t.w.seg.stats, ST_UP_BYTES_TX, t.up.tx)
        t.up.rx = 0
        t.up.tx = 0


cdef void tcp_log_moved(Tcp *t) noexcept nogil:
    if not timer_armed(&t.tell):
        timer_set(&t.w.r.wheel, &t.tell, t.w.r.now_ms + TCP_TELL_MS)


cdef uint32_t put_str(LogRec *rec, char *base, uint32_t at, int which, const char *p, uint32_t n) noexcept nogil:
    memcpy(base + at, p, n)
    rec.str_n[which] = <uint16_t>n
    return at + n


cdef uint32_t put_denied(LogRec *rec, char *base, uint32_t at, const char *details, const char *rule, uint32_t rule_n) noexcept nogil:
    # details[rule]
    cdef uint32_t n = <uint32_t>strlen(details)
    if rule_n == 0:
        rule = b"none"
        rule_n = 4
    memcpy(base + at, details, n)
    base[at + n] = c'['
    memcpy(base + at + n + 1, rule, rule_n)
    base[at + n + 1 + rule_n] = c']'
    n += rule_n + 2
    rec.str_n[LS_DETAILS] = <uint16_t>n
    return at + n


cdef void write_record(Tcp *t, uint64_t total_us) noexcept nogil:
    # strings in the order of LogRec
    cdef char buf[REC_MOST]
    cdef LogRec *rec = <LogRec *>buf
    cdef Worker *w = t.w
    cdef uint32_t at = sizeof(LogRec)
    cdef const char *names = block_data(t.names) if t.names != NULL else NULL
    cdef char text[64]
    memset(rec, 0, sizeof(LogRec))
    rec.minor = LOG_TCP
    rec.direction = t.direction
    rec.security = t.security
    rec.flags = t.rf
    rec.attempts = t.tries
    rec.authz = t.authz
    rec.start_wall_ns = fm_wall_ns() - total_us * 1000
    rec.duration_us = total_us
    rec.rx_bytes = t.rx_bytes
    rec.tx_bytes = t.tx_bytes
    rec.peer_port = t.peer_addr.port
    rec.peer_family = t.peer_addr.family
    memcpy(rec.peer_addr, t.peer_addr.a, 16)
    if names != NULL:
        at = put_str(rec, buf, at, LS_AUTHORITY, names, t.name_n[0])
    if t.upstream_addr.family:
        at = put_str(rec, buf, at, LS_UPSTREAM, text, addr_text(&t.upstream_addr, text, 64, True))
    if names != NULL:
        at = put_str(rec, buf, at, LS_CLUSTER, names + t.name_n[0], t.name_n[1])
    if t.flags & TF_DENIED:
        at = put_denied(rec, buf, at, t.details, names + t.name_n[0] + t.name_n[1], t.name_n[2] if names != NULL else 0)
    elif names != NULL:
        at = put_str(rec, buf, at, LS_ROUTE, names + t.name_n[0] + t.name_n[1], t.name_n[2])
    if t.details != NULL and not t.flags & TF_DENIED:
        at = put_str(rec, buf, at, LS_DETAILS, t.details, <uint32_t>strlen(t.details))
    if t.peer:
        at = put_str(rec, buf, at, LS_PEER, w.seg.peers.id[t.peer], <uint32_t>strlen(w.seg.peers.id[t.peer]))
    while at & 7:
        buf[at] = 0
        at += 1
    rec.bytes = at
    segment_log(&w.seg, rec, at)


cdef void tcp_log_over(Tcp *t) noexcept nogil:
    cdef uint64_t now_ns = fm_clock_ns()
    cdef uint64_t total_us = (now_ns - t.t_start) // 1000 if now_ns > t.t_start else 0
    cdef Series *s
    tcp_log_tell(t)
    s = series_of(t, t.rf)
    s.count += 1
    s.duration.sum += total_us
    s.duration.bins[hist_ms_bin(total_us)] += 1
    s.rx_bytes.bins[hist_bytes_bin(t.rx_bytes)] += 1
    s.tx_bytes.bins[hist_bytes_bin(t.tx_bytes)] += 1
    stat_inc(t.w.seg.stats, ST_TCP_DONE)
    if segment_log_on(&t.w.seg):
        write_record(t, total_us)
    block_free(&t.w.r.bufs, t.names)
    t.names = NULL
