"""Upstream connections (L3). See upstream.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from fastmesh._core.base.err cimport FM_AGAIN, FM_ENOMEM, FM_OK
from fastmesh._core.base.pool cimport pool_get
from fastmesh._core.base.view cimport Slice
from fastmesh._core.net.conn cimport CF_HUP, CF_READABLE, conn_close, conn_deadline, conn_dial
from fastmesh._core.net.sock cimport Addr
from fastmesh._core.net.tls_ctx cimport TlsCtx, TlsPeer
from fastmesh._core.proxy.ctx cimport C_CONNECT, C_GONE, C_HEAD, C_IDLE, XF_IDEMPOTENT, Exchange, H1c, UpPool, Worker
from fastmesh._core.proxy.respond cimport RE_CONNECT, RE_OVERFLOW, RE_OVERLOAD, RE_UP_TLS
from fastmesh._core.shm.snapshot cimport (
    CL_VERIFY_SAN, EP_TLS, SnapCluster, SnapEndpoint, SnapStr, snap_at, snap_str)
from fastmesh._core.shm.stats cimport ST_POOL_FULL, ST_UP_CX_FAIL, ST_UP_CX_REUSED, ST_UP_CX_TOTAL, stat_inc

cdef enum:
    SANS_MOST = 64               # identities that one destination may run as
    KEEP_MARGIN_MS = 5
    KEEP_DOUBT = 64              # connections left alone before a timeout that was learnt is doubted: it is learnt again at once if true


cdef void pool_push(UpPool *p, H1c *u) noexcept nogil:
    u.prev = NULL
    u.next = p.idle
    if p.idle != NULL:
        p.idle.prev = u
    p.idle = u
    p.nidle += 1


cdef void pool_take(UpPool *p, H1c *u) noexcept nogil:
    if u.prev != NULL:
        u.prev.next = u.next
    else:
        p.idle = u.next
    if u.next != NULL:
        u.next.prev = u.prev
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
    if w.pools[u.cell].tag == u.tag:
        w.pools[u.cell].count -= 1
        w.seg.rows[w.seg.self_row].e[u.cell].connections -= 1
    if u.ex != NULL:
        u.ex.up = NULL
        u.ex = NULL
    if u.conn != NULL:
        conn_close(u.conn)
        u.conn = NULL
    u.next_dead = w.dead_up
    w.dead_up = u


cdef void drop_idle(UpPool *p) noexcept nogil:
    while p.idle != NULL:
        upstream_drop(p.idle)


cdef inline uint64_t policy_of(const SnapCluster *c, const SnapEndpoint *ep) noexcept nogil:
    """Under what a connection is made: of one cluster's endpoints some may speak TLS and others not (yet)."""
    return c.tls_policy if ep.flags & EP_TLS else 0


cdef int dial(Exchange *ex, const SnapCluster *c, const SnapEndpoint *ep, UpPool *p) noexcept nogil:
    cdef Worker *w = ex.w
    cdef TlsCtx *ctx = NULL
    cdef TlsPeer peer
    cdef Slice sans[SANS_MOST]
    cdef Slice sni
    cdef const SnapStr *strs
    cdef Addr to
    cdef H1c *u
    cdef uint32_t i
    cdef int code = 0
    if ep.flags & EP_TLS:
        if c.tls >= w.ntls or c.sans.n > SANS_MOST:
            return RE_UP_TLS     # never plaintext instead
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
    u = <H1c *>pool_get(&w.ups)
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
    to.family = ep.family
    to.port = ep.port
    memcpy(to.a, ep.addr, 16)
    p.count += 1
    if ep.cell >= w.npools:
        w.npools = ep.cell + 1
    w.seg.rows[w.seg.self_row].e[ep.cell].connections += 1
    w.seg.rows[w.seg.self_row].e[ep.cell].connects += 1
    stat_inc(w.seg.stats, ST_UP_CX_TOTAL)
    u.conn = conn_dial(&w.r, &to, ctx, sni.p if ctx != NULL else NULL, sni.n if ctx != NULL else 0, &peer if ctx != NULL else NULL,
                       c.tls_policy ^ ep.tag, w.up_conn_ops, u, &code)
    if u.conn == NULL:
        stat_inc(w.seg.stats, ST_UP_CX_FAIL)
        upstream_drop(u)
        return RE_OVERLOAD if code == FM_ENOMEM else RE_CONNECT
    conn_deadline(u.conn, w.r.now_ms + (c.connect_timeout_ms if c.connect_timeout_ms else 10000))
    u.ex = ex
    ex.up = u
    ex.uops = w.h1_up
    return FM_AGAIN


cdef uint32_t keep_margin(const UpPool *p) noexcept nogil:
    # how long before its timeout an idle connection is left alone: clocks differ, and a request takes its time to get there
    return p.keep_ms >> 3 if p.keep_ms > 8 * KEEP_MARGIN_MS else KEEP_MARGIN_MS


cdef void upstream_idle_closed(H1c *u) noexcept nogil:
    cdef UpPool *p = &u.w.pools[u.cell]
    cdef uint32_t idle_for = <uint32_t>(u.w.r.now_ms - u.idle_since) + 1
    if p.tag == u.tag and (p.keep_ms == 0 or idle_for < p.keep_ms):
        p.keep_ms = idle_for
        p.avoided = 0


cdef int upstream_acquire(Exchange *ex, const SnapCluster *c, const SnapEndpoint *ep, bint fresh) noexcept nogil:
    cdef Worker *w = ex.w
    cdef UpPool *p = &w.pools[ep.cell]
    cdef H1c *u
    cdef H1c *nxt
    cdef uint32_t idle_for
    if p.tag != ep.tag:
        drop_idle(p)             # the cell belongs to another endpoint now
        p.tag = ep.tag
        p.count = 0
        p.keep_ms = 0
    memcpy(ex.upstream_addr.a, ep.addr, 16)
    ex.upstream_addr.family = ep.family
    ex.upstream_addr.port = ep.port
    if not fresh:
        u = p.idle
        while u != NULL:
            nxt = u.next
            idle_for = <uint32_t>(w.r.now_ms - u.idle_since)
            if p.keep_ms and not ex.flags & XF_IDEMPOTENT and idle_for + keep_margin(p) >= p.keep_ms:
                # about to be closed by the other side, and this request could not be repeated; the rest of the list is older
                p.avoided += 1
                if p.avoided >= KEEP_DOUBT:
                    p.keep_ms = 0
                break
            if u.tls_policy != policy_of(c, ep) or u.conn.flags & (CF_HUP | CF_READABLE):
                upstream_drop(u)  # another policy's, or the end of it has been seen in this very turn
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
    if c.max_connections and p.count >= c.max_connections:
        return RE_OVERFLOW
    return dial(ex, c, ep, p)


cdef void upstream_release(H1c *u) noexcept nogil:
    cdef Worker *w = u.w
    cdef UpPool *p = &w.pools[u.cell]
    if u.ex != NULL:
        u.ex.up = NULL
        u.ex = NULL
    if not u.reusable or w.draining or p.tag != u.tag or u.conn.flags & CF_HUP or (
            u.most_requests and u.requests >= u.most_requests):
        upstream_drop(u)
        return
    if u.idle_for > p.keep_ms:
        p.keep_ms = 0            # it has waited longer and was served: what was seen was no keep-alive timeout
    u.idle_for = 0
    u.idle_since = w.r.now_ms
    u.state = C_IDLE
    u.seen = 0
    pool_push(p, u)
    conn_deadline(u.conn, w.r.now_ms + u.idle_ms if u.idle_ms else 0)


cdef void upstream_sweep(Worker *w) noexcept nogil:
    # an endpoint that this generation does not have keeps no idle connection; connections in use end with their exchange
    cdef const SnapEndpoint *eps = <const SnapEndpoint *>snap_at(&w.snap, w.snap.h.endpoints.off)
    cdef uint32_t i
    cdef UpPool *p
    for i in range(w.npools):
        p = &w.pools[i]
        if p.idle != NULL:
            p.idle.reusable = 2  # marks the pool; taken off below for those that live
    for i in range(w.snap.h.endpoints.n):
        p = &w.pools[eps[i].cell]
        if p.idle != NULL and p.tag == eps[i].tag:
            p.idle.reusable = 1
    for i in range(w.npools):
        p = &w.pools[i]
        if p.idle != NULL and p.idle.reusable == 2:
            drop_idle(p)


cdef void upstream_close_idle(Worker *w) noexcept nogil:
    cdef uint32_t i
    for i in range(w.npools):
        drop_idle(&w.pools[i])
