"""Upstream connections (L3). See upstream.pxd."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from fastmesh._core.base.err cimport FM_AGAIN, FM_ENOMEM, FM_ETLS, FM_ETLS_CERT, FM_ETLS_IDENTITY, FM_OK
from fastmesh._core.base.pool cimport pool_get, pool_put
from fastmesh._core.base.view cimport Slice
from fastmesh._core.net.conn cimport CF_HUP, CF_READABLE, Conn, ConnOps, conn_close, conn_deadline, conn_dial
from fastmesh._core.net.sock cimport Addr, sock_keepalive
from fastmesh._core.net.tls_ctx cimport TlsCtx, TlsPeer, tls_ctx_offers
from fastmesh._core.policy.breaker cimport breaker_connected, breaker_connection, breaker_disconnected
from fastmesh._core.proxy.ctx cimport (
    C_CONNECT, C_GONE, C_HEAD, C_IDLE, HC_CONNECT, HC_GONE, HC_OPEN, XF_IDEMPOTENT, XF_UPGRADE, Exchange, H1c, H2c, UpPool, Worker)
from fastmesh._core.proxy.h2_io cimport h2_io_kick
from fastmesh._core.proxy.pending cimport pending_count, pending_over, pending_serve, pending_wait
from fastmesh._core.proxy.share cimport share_attach, share_early, share_leave, share_room
from fastmesh._core.proxy.respond cimport RE_CONNECT, RE_OVERFLOW, RE_OVERLOAD, RE_PENDING, RE_UP_TLS
from fastmesh._core.shm.snapshot cimport (
    CL_AS_CLIENT, CL_H2, CL_KEEPALIVE, CL_ORIGINAL_DST, CL_VERIFY_SAN, EP_TLS, Snap, SnapCluster, SnapEndpoint, SnapStr, snap_at, snap_str)
from fastmesh._core.shm.stats cimport (
    ST_POOL_FULL, ST_TLS_CONNECT_FAIL, ST_TLS_PEER_CERT, ST_TLS_PEER_IDENTITY, ST_UP_CX_FAIL, ST_UP_CX_OVERFLOW, ST_UP_CX_REUSED,
    ST_UP_CX_TOTAL, stat_inc)

cdef enum:
    SANS_MOST = 64               # identities that one destination may run as
    KEEP_MARGIN_MS = 5
    KEEP_TRUST_MS = 500          # idle so long, a connection is there still at any usual server (gunicorn: 2 s, uvicorn: 5 s)
    KEEP_DOUBT = 64              # connections of HTTP/2 left alone before a timeout that was learnt is doubted: if true, it is learnt again


cdef void pool_push(UpPool *p, H1c *u) noexcept nogil:
    u.prev = NULL
    u.next = p.idle
    if p.idle != NULL:
        p.idle.prev = u
    else:
        p.oldest = u
    p.idle = u
    p.nidle += 1


cdef void pool_take(UpPool *p, H1c *u) noexcept nogil:
    if u.prev != NULL:
        u.prev.next = u.next
    else:
        p.idle = u.next
    if u.next != NULL:
        u.next.prev = u.prev
    else:
        p.oldest = u.prev
    u.next = NULL
    u.prev = NULL
    p.nidle -= 1


cdef void upstream_drop(H1c *u) noexcept nogil:
    cdef Worker *w
    if u == NULL or u.state == C_GONE:
        return
    w = u.w
    if u.state == C_IDLE:
        pool_take(&w.pools[u.cell], u)
    u.state = C_GONE
    upstream_uncount(w, u.cell, u.tag, u.cluster_cell)
    if u.ex != NULL:
        u.ex.up = NULL
        u.ex = NULL
    if u.conn != NULL:
        conn_close(u.conn)
        u.conn = NULL
    u.next_dead = w.dead_up
    w.dead_up = u


cdef void drop_all(UpPool *p) noexcept nogil:
    while p.idle != NULL:
        upstream_drop(p.idle)
    while p.shared != NULL:
        share_leave(p.shared)      # ... out of the list; it ends with its last stream


cdef UpPool *pool_of(Worker *w, const SnapEndpoint *ep) noexcept nogil:
    cdef UpPool *p = &w.pools[ep.cell]
    if p.tag != ep.tag:
        drop_all(p)              # the cell belongs to another endpoint now
        p.tag = ep.tag
        p.count = 0
        p.keep_ms = 0
        p.kept_ms = 0
        p.h1_policy = 0
        p.most_streams = 0
    return p


cdef inline uint64_t policy_of(const SnapCluster *c, const SnapEndpoint *ep) noexcept nogil:
    """Under what a connection is made: of one cluster's endpoints some may speak TLS and others not (yet)."""
    return c.tls_policy if ep.flags & EP_TLS else 0


cdef const SnapEndpoint *upstream_called(const Snap *s, const SnapCluster *c, const Addr *called) noexcept nogil:
    cdef const SnapEndpoint *e = <const SnapEndpoint *>snap_at(s, c.endpoints.off)
    cdef uint32_t i
    if c.flags & CL_ORIGINAL_DST:
        return NULL
    for i in range(c.endpoints.n):
        if e[i].family == called.family and memcmp(e[i].addr, called.a, 16) == 0:
            return &e[i]
    return NULL


cdef const SnapEndpoint *upstream_here(const SnapEndpoint *ep, const Addr *called, SnapEndpoint *to) noexcept nogil:
    if called.family == 0:
        return NULL
    to[0] = ep[0]
    to.family = called.family
    to.port = called.port
    memcpy(to.addr, called.a, 16)
    return to


cdef Conn *upstream_connect(Worker *w, const SnapCluster *c, const SnapEndpoint *ep, uint16_t port, const ConnOps *ops, void *owner,
                            int *code) noexcept nogil:
    cdef TlsCtx *ctx = NULL
    cdef TlsPeer peer
    cdef Slice sans[SANS_MOST]
    cdef Slice sni
    cdef const SnapStr *strs
    cdef Addr to
    cdef Conn *conn
    cdef uint32_t i
    code[0] = FM_ETLS
    if ep.flags & EP_TLS:
        if c.tls >= w.ntls or c.sans.n > SANS_MOST:
            return NULL          # never plaintext instead
        ctx = w.tls[c.tls]
        strs = <const SnapStr *>snap_at(&w.snap, c.sans.off)
        for i in range(c.sans.n):
            sans[i] = snap_str(&w.snap, strs[i])
        peer.sans = sans
        peer.n = c.sans.n
        peer.verify_san = 1 if c.flags & CL_VERIFY_SAN else 0
        sni = snap_str(&w.snap, c.sni)
        peer.host.p = sni.p
        peer.host.n = 0 if peer.verify_san else sni.n
    to.family = ep.family
    to.port = port if port else ep.port
    memcpy(to.a, ep.addr, 16)
    conn = conn_dial(&w.r, &to, ctx, sni.p if ctx != NULL else NULL, sni.n if ctx != NULL else 0, &peer if ctx != NULL else NULL,
                     c.tls_policy ^ ep.tag, ops, owner, code)
    if conn != NULL and c.flags & CL_KEEPALIVE:
        sock_keepalive(conn.src.fd, <int>c.keepalive_time_s, <int>c.keepalive_interval_s, <int>c.keepalive_probes)
    return conn


cdef Conn *dial(Worker *w, const SnapCluster *c, const SnapEndpoint *ep, UpPool *p, const ConnOps *ops, void *owner, int *rc) noexcept nogil:
    # NULL: *rc is why
    cdef Conn *conn
    cdef int code = 0
    p.count += 1
    breaker_connected(&w.seg, c.cell)
    if ep.cell >= w.npools:
        w.npools = ep.cell + 1
    w.seg.rows[w.seg.self_row].e[ep.cell].connections += 1
    w.seg.rows[w.seg.self_row].e[ep.cell].connects += 1
    stat_inc(w.seg.stats, ST_UP_CX_TOTAL)
    conn = upstream_connect(w, c, ep, 0, ops, owner, &code)
    if conn == NULL:
        stat_inc(w.seg.stats, ST_UP_CX_FAIL)
        rc[0] = RE_OVERLOAD if code == FM_ENOMEM else RE_CONNECT
        return NULL
    conn_deadline(conn, w.r.now_ms + (c.connect_timeout_ms if c.connect_timeout_ms else 10000))
    return conn


cdef Conn *upstream_dial(Worker *w, const SnapCluster *c, const SnapEndpoint *ep, const ConnOps *ops, void *owner, int *code) noexcept nogil:
    cdef Conn *conn
    if not breaker_connection(&w.seg, c):
        stat_inc(w.seg.stats, ST_UP_CX_OVERFLOW)
        code[0] = RE_OVERFLOW
        return NULL
    pool_of(w, ep)
    conn = dial(w, c, ep, &w.pools[ep.cell], ops, owner, code)
    if conn == NULL:
        upstream_uncount(w, ep.cell, ep.tag, c.cell)
    return conn


cdef int dial_h1(Exchange *ex, const SnapCluster *c, const SnapEndpoint *ep, UpPool *p) noexcept nogil:
    cdef Worker *w = ex.w
    cdef H1c *u = <H1c *>pool_get(&w.ups)
    cdef int rc = FM_OK
    if u == NULL:
        stat_inc(w.seg.stats, ST_POOL_FULL)
        return RE_OVERLOAD
    u.w = w
    u.state = C_CONNECT
    u.cell = ep.cell
    u.tag = ep.tag
    u.tls_policy = policy_of(c, ep)
    u.idle_ms = c.idle_timeout_ms
    u.most_requests = c.max_requests_per_connection
    u.cluster_cell = c.cell
    u.old_ms = w.r.now_ms + c.max_age_ms if c.max_age_ms else 0
    u.conn = dial(w, c, ep, p, w.up_conn_ops, u, &rc)
    if u.conn == NULL:
        upstream_drop(u)
        return rc
    u.ex = ex
    ex.up = u
    ex.uops = w.h1_up
    return FM_AGAIN


cdef int dial_h2(Exchange *ex, const SnapCluster *c, const SnapEndpoint *ep, UpPool *p, bint only_h2) noexcept nogil:
    cdef Worker *w = ex.w
    cdef H2c *u = <H2c *>pool_get(&w.h2_ups)
    cdef int rc = FM_OK
    if u == NULL:
        stat_inc(w.seg.stats, ST_POOL_FULL)
        return RE_OVERLOAD
    u.io.w = w
    u.state = HC_CONNECT
    u.only_h2 = only_h2
    u.cell = ep.cell
    u.tag = ep.tag
    u.tls_policy = policy_of(c, ep)
    u.idle_ms = c.idle_timeout_ms
    u.most_requests = c.max_requests_per_connection
    u.most_streams = c.max_streams
    u.cluster_cell = c.cell
    u.old_ms = w.r.now_ms + c.max_age_ms if c.max_age_ms else 0
    u.io.conn = dial(w, c, ep, p, w.h2_conn_ops, u, &rc)
    if u.io.conn == NULL:
        upstream_uncount(w, u.cell, u.tag, u.cluster_cell)
        u.state = HC_GONE
        pool_put(&w.h2_ups, u)
        return rc
    u.next = p.shared
    if u.next != NULL:
        u.next.prev = u
    p.shared = u
    return share_attach(u, ex)


cdef void upstream_dial_failed(Worker *w, const Conn *c, int code) noexcept nogil:
    stat_inc(w.seg.stats, ST_UP_CX_FAIL)
    if c.tls_failure:
        stat_inc(w.seg.stats, ST_TLS_CONNECT_FAIL)
        if code == FM_ETLS_CERT:
            stat_inc(w.seg.stats, ST_TLS_PEER_CERT)
        elif code == FM_ETLS_IDENTITY:
            stat_inc(w.seg.stats, ST_TLS_PEER_IDENTITY)


# ---- shared connections ----------------------------------------------------------------------------------------------------------------

cdef void upstream_uncount(Worker *w, uint32_t cell, uint64_t tag, uint32_t cluster_cell) noexcept nogil:
    breaker_disconnected(&w.seg, cluster_cell)
    if w.pools[cell].tag == tag:
        w.pools[cell].count -= 1
        w.seg.rows[w.seg.self_row].e[cell].connections -= 1
        pending_serve(w, &w.pools[cell])


cdef int may_dial(Exchange *ex, const SnapCluster *c, UpPool *p) noexcept nogil:
    # FM_OK: counted as waiting for a connection that is to be opened now. FM_AGAIN: it waits for one that is there.
    if not pending_count(ex, c):
        return RE_PENDING
    if p.count == 0 or breaker_connection(&ex.w.seg, c):
        return FM_OK
    stat_inc(ex.w.seg.stats, ST_UP_CX_OVERFLOW)
    pending_wait(p, ex)
    return FM_AGAIN


cdef int acquire_h2(Exchange *ex, const SnapCluster *c, const SnapEndpoint *ep, UpPool *p, bint only_h2) noexcept nogil:
    cdef uint64_t policy = policy_of(c, ep)
    cdef bint upgrade = (ex.flags & XF_UPGRADE) != 0
    cdef bint alone = not only_h2 and p.h1_policy == policy and policy != 0
    cdef H2c *u = p.shared
    cdef H2c *nxt
    cdef int rc
    while u != NULL:
        nxt = u.next
        if u.tls_policy != policy or (u.old_ms and ex.w.r.now_ms >= u.old_ms):
            share_leave(u)
        elif u.state == HC_OPEN and u.idle_since and about_to_close(p, ex, <uint32_t>(ex.w.r.now_ms - u.idle_since)):
            share_leave(u)
        elif not (alone and u.state == HC_CONNECT) and share_room(u, upgrade):  # a dial that is known to end as HTTP/1 serves one
            if (u.state == HC_CONNECT or share_early(u, ex)) and not pending_count(ex, c):
                return RE_PENDING
            rc = share_attach(u, ex)
            if rc == FM_ENOMEM:
                pending_over(ex)
            else:
                if rc == FM_OK:
                    stat_inc(ex.w.seg.stats, ST_UP_CX_REUSED)
                return rc
        u = nxt
    rc = may_dial(ex, c, p)
    return dial_h2(ex, c, ep, p, only_h2) if rc == FM_OK else rc


cdef bint about_to_close(UpPool *p, const Exchange *ex, uint32_t idle_for) noexcept nogil:
    # The other side will close what has been idle so long, and this request could not be repeated. It is left a wide berth: servers look
    # at their timers when they have the time to, and to dial costs little beside the pause that there was.
    if p.keep_ms == 0 or ex.flags & XF_IDEMPOTENT or idle_for <= p.keep_ms >> 1:
        return False
    p.avoided += 1
    if p.avoided >= KEEP_DOUBT:
        p.keep_ms = 0
    return True


cdef bint may_be_closing(UpPool *p, const H1c *newest, const Exchange *ex, uint32_t idle_for) noexcept nogil:
    # The same for HTTP/1, which has no GOAWAY to say what was not looked at: what an endpoint has not shown or said to keep is not trusted.
    cdef uint32_t sure = KEEP_TRUST_MS
    if ex.flags & XF_IDEMPOTENT:
        return False
    if p.keep_ms:
        sure = p.keep_ms >> 1
    elif newest.told_ms:
        return False             # ours ends first: upstream_release
    elif p.kept_ms >> 1 > sure:
        sure = p.kept_ms >> 1
    if idle_for <= sure:
        return False
    if not p.oldest.conn.flags & (CF_HUP | CF_READABLE):
        # it is left in the pool, as those before it: the one that has been there longest shows how long they last
        idle_for = <uint32_t>(ex.w.r.now_ms - p.oldest.idle_since)
        if p.keep_ms and idle_for > p.keep_ms + (p.keep_ms >> 1) + KEEP_MARGIN_MS:
            p.keep_ms = 0        # once it closed one sooner, for another reason
        if idle_for > p.kept_ms:
            p.kept_ms = idle_for
    return True


cdef void upstream_idle_closed(Worker *w, uint32_t cell, uint64_t tag, uint64_t idle_since) noexcept nogil:
    cdef UpPool *p = &w.pools[cell]
    cdef uint32_t idle_for = <uint32_t>(w.r.now_ms - idle_since) + 1
    if p.tag == tag and (p.keep_ms == 0 or idle_for < p.keep_ms):
        p.keep_ms = idle_for
        p.kept_ms = 0
        p.avoided = 0


cdef void upstream_idle_served(UpPool *p, uint32_t idle_for) noexcept nogil:
    if idle_for > p.keep_ms:
        p.keep_ms = 0
    if idle_for > p.kept_ms:
        p.kept_ms = idle_for


cdef int upstream_acquire(Exchange *ex, const SnapCluster *c, const SnapEndpoint *ep, bint fresh) noexcept nogil:
    cdef Worker *w = ex.w
    cdef UpPool *p = pool_of(w, ep)
    cdef H1c *u
    cdef H1c *nxt
    cdef uint32_t idle_for
    cdef bint by_alpn = False
    cdef bint spare = False
    cdef bint only_h2
    cdef int rc
    memcpy(ex.upstream_addr.a, ep.addr, 16)
    ex.upstream_addr.family = ep.family
    ex.upstream_addr.port = ep.port
    if ep.flags & EP_TLS:
        if c.tls >= w.ntls or c.sans.n > SANS_MOST:
            return RE_UP_TLS     # never plaintext instead
        by_alpn = tls_ctx_offers(w.tls[c.tls], b"h2", 2)
        only_h2 = by_alpn and not tls_ctx_offers(w.tls[c.tls], b"http/1.1", 8)
    else:
        only_h2 = c.flags & CL_H2 or (c.flags & CL_AS_CLIENT and ex.minor == 2)
    if only_h2:
        return acquire_h2(ex, c, ep, p, True)
    if not fresh:
        u = p.idle
        while u != NULL:
            nxt = u.next
            idle_for = <uint32_t>(w.r.now_ms - u.idle_since)
            if may_be_closing(p, u, ex, idle_for):
                spare = True
                break            # the rest of the list is older
            if u.tls_policy != policy_of(c, ep) or u.conn.flags & (CF_HUP | CF_READABLE) or (u.old_ms and w.r.now_ms >= u.old_ms):
                upstream_drop(u)  # another policy's, too old, or the end of it has been seen in this very turn
            else:
                pool_take(p, u)
                u.state = C_HEAD
                u.idle_for = idle_for
                u.ex = ex
                ex.up = u
                ex.uops = w.h1_up
                stat_inc(w.seg.stats, ST_UP_CX_REUSED)
                return FM_OK
            u = nxt
    if by_alpn:
        return acquire_h2(ex, c, ep, p, False)
    if spare and p.idle != NULL and not breaker_connection(&w.seg, c):
        upstream_drop(p.idle)    # nobody waits for connections while one stands idle: it makes room
    rc = may_dial(ex, c, p)
    return dial_h1(ex, c, ep, p) if rc == FM_OK else rc


cdef void upstream_release(H1c *u) noexcept nogil:
    cdef Worker *w = u.w
    cdef UpPool *p = &w.pools[u.cell]
    cdef uint32_t idle
    if u.ex != NULL:
        u.ex.up = NULL
        u.ex = NULL
    if not u.reusable or w.draining or p.tag != u.tag or u.conn.flags & CF_HUP or (
            u.most_requests and u.requests >= u.most_requests) or (u.old_ms and w.r.now_ms >= u.old_ms):
        upstream_drop(u)
        return
    upstream_idle_served(p, u.idle_for)
    u.idle_for = 0
    u.idle_since = w.r.now_ms
    u.state = C_IDLE
    u.seen = 0
    pool_push(p, u)
    pending_serve(w, p)
    idle = u.idle_ms
    if u.told_ms and (idle == 0 or u.told_ms < idle):
        # left a while before the other side leaves it, so that no request meets its end
        idle = u.told_ms - (u.told_ms >> 3) if u.told_ms > 8 * KEEP_MARGIN_MS else KEEP_MARGIN_MS
    conn_deadline(u.conn, w.r.now_ms + idle if idle else 0)


cdef void upstream_sweep(Worker *w) noexcept nogil:
    # an endpoint that this generation does not have keeps no idle connection; connections in use end with their exchange
    cdef const SnapEndpoint *eps = <const SnapEndpoint *>snap_at(&w.snap, w.snap.h.endpoints.off)
    cdef uint32_t i
    cdef UpPool *p
    for i in range(w.npools):
        w.pools[i].unlisted = 1
    for i in range(w.snap.h.endpoints.n):
        p = &w.pools[eps[i].cell]
        if p.tag == eps[i].tag:
            p.unlisted = 0
    for i in range(w.npools):
        if w.pools[i].unlisted:
            drop_all(&w.pools[i])


cdef void upstream_close_idle(Worker *w) noexcept nogil:
    cdef H2c *u
    cdef uint32_t i
    for i in range(w.npools):
        while w.pools[i].idle != NULL:
            upstream_drop(w.pools[i].idle)
        u = w.pools[i].shared
        while u != NULL:
            if u.state == HC_OPEN:
                h2_io_kick(&u.io)  # it goes by itself when it has no stream
            u = u.next


cdef void upstream_cut(Worker *w) noexcept nogil:
    cdef uint32_t i
    for i in range(w.npools):
        while w.pools[i].idle != NULL:
            upstream_drop(w.pools[i].idle)
