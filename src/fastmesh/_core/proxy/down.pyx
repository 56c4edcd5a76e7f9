"""Downstream connections, whatever they speak (L3). See down.pxd."""
from libc.stdint cimport uint8_t
from fastmesh._core.base.err cimport FM_ETLS, FM_ETLS_CERT, FM_ETLS_IDENTITY
from fastmesh._core.base.pool cimport pool_put
from fastmesh._core.net.conn cimport CONN_HANDSHAKE, CONN_SNIFF, Conn
from fastmesh._core.net.tls cimport tls_has_peer_cert, tls_peer_id, tls_resumed
from fastmesh._core.proxy.ctx cimport DOWN_H1, DOWN_TCP, Down, H2s, ListenerState, Worker
from fastmesh._core.shm.snapshot cimport TLS_STRICT
from fastmesh._core.shm.stats cimport (
    SEC_MTLS, SEC_NONE, SEC_TLS, ST_BYTES_RX, ST_BYTES_TX, ST_TLS_ACCEPT, ST_TLS_ACCEPT_FAIL, ST_TLS_ACCEPT_RESUMED, ST_TLS_PEER_CERT,
    ST_TLS_PEER_IDENTITY, ST_TLS_PLAINTEXT_REFUSED, peer_intern, stat_add, stat_inc)


cdef void down_begin(Down *d, Worker *w, ListenerState *l, int version) noexcept nogil:
    d.w = w
    d.listener = l
    d.version = <uint8_t>version
    d.prev = NULL
    d.next = w.downs_head
    if d.next != NULL:
        d.next.prev = d
    w.downs_head = d
    w.seg.slot.connections += 1


cdef void down_handover(Down *from_, Down *to, int version) noexcept nogil:
    cdef Worker *w = from_.w
    to.w = w
    to.conn = from_.conn
    to.listener = from_.listener
    to.version = <uint8_t>version
    to.security = from_.security
    to.peer = from_.peer
    to.prev = from_.prev
    to.next = from_.next
    if to.prev != NULL:
        to.prev.next = to
    else:
        w.downs_head = to
    if to.next != NULL:
        to.next.prev = to
    from_.conn = NULL
    from_.next_dead = w.dead_down
    w.dead_down = from_


cdef void down_end(Down *d) noexcept nogil:
    cdef Worker *w = d.w
    d.conn = NULL
    if d.prev != NULL:
        d.prev.next = d.next
    else:
        w.downs_head = d.next
    if d.next != NULL:
        d.next.prev = d.prev
    w.seg.slot.connections -= 1
    d.next_dead = w.dead_down
    w.dead_down = d


cdef void down_reap(Worker *w) noexcept nogil:
    # one whose task is still queued waits for it: the task list holds its address
    cdef Down *d = w.dead_down
    cdef Down *nxt
    w.dead_down = NULL
    while d != NULL:
        nxt = d.next_dead
        if d.version == DOWN_H1:
            pool_put(&w.downs, d)
        elif d.version == DOWN_TCP:
            pool_put(&w.tcps, d)
        elif (<H2s *>d).io.task.queued:
            d.next_dead = w.dead_down
            w.dead_down = d
        else:
            pool_put(&w.h2_downs, d)
        d = nxt


cdef void down_secured(Down *d) noexcept nogil:
    cdef Worker *w = d.w
    cdef char sid[256]
    d.security = SEC_NONE
    if d.conn.tls == NULL:
        return
    stat_inc(w.seg.stats, ST_TLS_ACCEPT)
    if tls_resumed(d.conn.tls):
        stat_inc(w.seg.stats, ST_TLS_ACCEPT_RESUMED)
    d.security = SEC_TLS
    if tls_has_peer_cert(d.conn.tls):
        d.security = SEC_MTLS
        d.peer = peer_intern(w.seg.peers, sid, tls_peer_id(d.conn.tls, sid, 256))


cdef void down_unsecured(const Conn *c, Worker *w, int code) noexcept nogil:
    if code == FM_ETLS and c.state == CONN_SNIFF:
        stat_inc(w.seg.stats, ST_TLS_PLAINTEXT_REFUSED)
    elif c.state == CONN_HANDSHAKE:
        stat_inc(w.seg.stats, ST_TLS_ACCEPT_FAIL)
        if code == FM_ETLS_CERT:
            stat_inc(w.seg.stats, ST_TLS_PEER_CERT)
        elif code == FM_ETLS_IDENTITY:
            stat_inc(w.seg.stats, ST_TLS_PEER_IDENTITY)


cdef void down_bytes(Down *d) noexcept nogil:
    stat_add(d.w.seg.stats, ST_BYTES_RX, d.conn.rx)
    stat_add(d.w.seg.stats, ST_BYTES_TX, d.conn.tx)
    d.conn.rx = 0
    d.conn.tx = 0


cdef bint down_refused_plain(Down *d) noexcept nogil:
    if d.security != SEC_NONE or d.listener.tls_mode != TLS_STRICT:
        return False
    stat_inc(d.w.seg.stats, ST_TLS_PLAINTEXT_REFUSED)
    return True
