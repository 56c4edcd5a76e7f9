"""The worker (L4, BORDER): builds everything and runs it. The one Python entry of the data plane and its one `with nogil`.

It takes up config generations and orders at the beginning of a turn, tells its heartbeat at the end, and knows nothing of HTTP.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, malloc
from libc.string cimport memcpy, memset
from fastmesh._core.base.err cimport FM_OK
from fastmesh._core.base.pool cimport pool_init
from fastmesh._core.base.sys cimport (
    EAGAIN, ECONNABORTED, EINTR, EPOLLIN, PR_SET_NAME, PR_SET_PDEATHSIG, SIGKILL, block_signals, close, fm_load_acquire32,
    fm_store_release, fm_store_release32, getrandom, prctl, read, time_gmt)
from fastmesh._core.base.timer cimport timer_set
from fastmesh._core.base.trim cimport fm_trim_files
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.net.conn cimport CONN_HANDSHAKE, Conn, conn_reap
from fastmesh._core.net.reactor cimport Reactor, Source, reactor_add, reactor_del, reactor_forget_tasks, reactor_init, reactor_run, reactor_task
from fastmesh._core.net.sock cimport Addr, sock_accept, sock_original
from fastmesh._core.net.tls cimport tls_peer_id
from fastmesh._core.net.tls_peer cimport SPIFFE_ID_MAX, peer_denied
from fastmesh._core.net.tls_ctx cimport TlsCtx, TlsSpec, tls_ctx_key, tls_ctx_new, tls_ctx_ref, tls_ctx_unref
from fastmesh._core.policy.lb_level cimport LevelShares
from fastmesh._core.policy.router cimport router_commit, router_prepare
from fastmesh._core.proto.h2_stream cimport H2_ARENA, H2Stream
from fastmesh._core.proxy.ctx cimport (
    DOWN_H2, DOWN_TCP, HBUF_BYTES, MAX_LISTENERS, MAX_TLS, TLS_PER_LISTENER, Down, Exchange, H1c, H1s, H2c, H2s, ListenerState, Tcp, UpPool, Worker)
from fastmesh._core.proxy.exchange cimport exchange_reap
from fastmesh._core.proxy.healthcheck cimport (
    HEALTH_CHECKS, healthcheck_config, healthcheck_init, healthcheck_reap, healthcheck_stop)
from fastmesh._core.proxy.down cimport down_reap
from fastmesh._core.proxy.mux_h1_down cimport h1s_accept, h1s_cut, h1s_init, h1s_sweep
from fastmesh._core.proxy.mux_h1_up cimport h1c_init, h1c_reap
from fastmesh._core.proxy.mux_h2_down cimport h2s_cut, h2s_drain, h2s_init, h2s_sweep
from fastmesh._core.proxy.overload cimport SHED_SPARE, overload_init, overload_probe
from fastmesh._core.proxy.pending cimport pending_init
from fastmesh._core.proxy.mux_h2_up cimport h2c_cut, h2c_init, h2c_reap
from fastmesh._core.proxy.tcp cimport tcp_accept, tcp_cut, tcp_init, tcp_sweep
from fastmesh._core.proxy.upstream cimport upstream_close_idle, upstream_cut, upstream_sweep
from fastmesh._core.shm.layout cimport CL_CELLS, EP_CELLS, ORDER_DRAIN, ORDER_STOP, W_DRAINING, W_GONE, W_SERVING
from fastmesh._core.shm.segment cimport Segment, segment_map, snap_current
from fastmesh._core.shm.snapshot cimport (
    LF_CAPTURED, LF_TCP, L_INBOUND, SNAP_NONE, Snap, SnapListener, SnapStr, SnapTls, fnv64, snap_at, snap_listener, snap_str)
from fastmesh._core.shm.stats cimport SEC_MTLS, ST_CX_CAPTURED, ST_SNAP_REFUSED, ST_SNAP_SWITCH, ST_TLS_PEER_IDENTITY, stat_inc

# name: (default, reason)
OPTIONS = {
    "max_connections": (16384, "downstream connections of a worker; above: closed at once"),
    "max_exchanges": (65536, "requests in flight in a worker; above: 503 OM"),
    "max_memory": (268435456, "bytes of buffers of a worker; from 95 % on new requests get 503 OM, from 90 % on clients are told to leave"),
    "shed_lag_ms": (1000, "a connection that is ready waits longer for its turn, three times in a row: new requests get 503 OM"),
    "idle_timeout_ms": (3600000, "a downstream connection between requests (Envoy: 1 h)"),
    "header_timeout_ms": (30000, "a request head, from its first byte; the first one: from accept"),
    "stream_idle_timeout_ms": (300000, "an exchange on which nothing moves (Envoy: 5 m)"),
    "handshake_timeout_ms": (15000, "TLS handshake, and the first byte of a connection"),
    "drain_idle_ms": (500, "how long idle connections stay when draining, for requests that are on their way"),
    "config_wait_ms": (4000, "how long connections wait for the first config; then they get 503"),
    "accept_batch": (64, "connections accepted before others are served again"),
}

cdef enum:
    ACCEPT_RETRY_MS = 100        # after running out of descriptors
    EXIT_LEAK = 3                # exit status: something was still held when nothing was left to hold it


# ---- config ----------------------------------------------------------------------------------------------------------------------

cdef TlsCtx *known_tls(Worker *w, uint64_t key) noexcept nogil:
    cdef uint32_t i
    for i in range(w.ntls):
        if tls_ctx_key(w.tls[i]) == key:
            tls_ctx_ref(w.tls[i])
            return w.tls[i]
    return NULL


cdef int build_tls(Worker *w, const Snap *s, const SnapTls *t, TlsCtx **out) noexcept nogil:
    cdef TlsSpec spec
    cdef Slice hosts[64]
    cdef const SnapStr *strs = <const SnapStr *>snap_at(s, t.hosts.off)
    cdef uint32_t i
    memset(&spec, 0, sizeof(spec))
    spec.key = t.key
    spec.flags = t.flags
    spec.min_version = t.min_version
    spec.cert = snap_str(s, t.cert)
    spec.private_key = snap_str(s, t.private_key)
    spec.ca = snap_str(s, t.ca)
    spec.alpn = snap_str(s, t.alpn)
    spec.trust_domain = snap_str(s, t.trust_domain)
    spec.denied = snap_str(s, t.denied)
    spec.nhosts = t.hosts.n if t.hosts.n < 64 else 64
    for i in range(spec.nhosts):
        hosts[i] = snap_str(s, strs[i])
    spec.hosts = hosts
    return tls_ctx_new(out, &spec)


cdef int take_tls(Worker *w, const Snap *s) noexcept nogil:
    # all contexts of the generation, or none: the old ones stay
    cdef TlsCtx *fresh[MAX_TLS]
    cdef const SnapTls *t = <const SnapTls *>snap_at(s, s.h.tls.off)
    cdef uint32_t n = s.h.tls.n
    cdef uint32_t i, made = 0
    cdef int rc
    if n > MAX_TLS:
        return -1
    for i in range(n):
        fresh[i] = known_tls(w, t[i].key)
        if fresh[i] == NULL:
            made += 1
            rc = build_tls(w, s, &t[i], &fresh[i])
            if rc != FM_OK:
                while i:
                    i -= 1
                    tls_ctx_unref(fresh[i])
                return rc
    for i in range(w.ntls):
        tls_ctx_unref(w.tls[i])
    memcpy(w.tls, fresh, n * sizeof(TlsCtx *))
    w.ntls = n
    w.tls_fresh = made
    return FM_OK


cdef void take_listener(Worker *w, ListenerState *l, const Snap *s) noexcept nogil:
    cdef const SnapListener *sl = snap_listener(s, l.id)
    cdef const uint32_t *idx
    cdef uint32_t i, n
    memset(l.tls, 0, sizeof(l.tls))
    l.ntls = 0
    if sl == NULL:
        l.table = l.tcp_table = l.authz = SNAP_NONE
        return
    l.kind = sl.kind
    l.flags = sl.flags
    l.table = sl.table
    l.tcp_table = sl.tcp_table
    l.app_port = sl.app_port
    l.authz = sl.authz
    l.tls_mode = sl.tls_mode
    l.port = sl.port
    idx = <const uint32_t *>snap_at(s, sl.tls.off)
    n = sl.tls.n if sl.tls.n < TLS_PER_LISTENER else TLS_PER_LISTENER
    for i in range(n):
        l.tls[i] = w.tls[idx[i]]
    l.ntls = n


cdef void cut_denied(Worker *w) noexcept nogil:
    """Connections of clients whose identity is denied now, whatever is under way on them; also those whose handshake goes on under a
    context of before, which does not know."""
    cdef Down *d = w.downs_head
    cdef Down *nxt
    cdef char sid[SPIFFE_ID_MAX]
    cdef Slice name
    cdef uint32_t i
    cdef bint denied
    while d != NULL:
        nxt = d.next
        if d.security == SEC_MTLS or d.conn.state == CONN_HANDSHAKE:
            name = slice_of(sid, tls_peer_id(d.conn.tls, sid, SPIFFE_ID_MAX) if d.security == SEC_MTLS else 0)
            denied = False
            for i in range(d.listener.ntls):
                denied = denied or (peer_denied(d.listener.tls[i].denied, name) if name.n else d.listener.tls[i].denied.n != 0)
            if denied:
                stat_inc(w.seg.stats, ST_TLS_PEER_IDENTITY)
                if d.version == DOWN_H2:
                    h2s_cut(<H2s *>d)
                elif d.version == DOWN_TCP:
                    tcp_cut(<Tcp *>d)
                else:
                    h1s_cut(<H1s *>d)
        d = nxt


cdef void listen_now(Worker *w) noexcept nogil:
    # What comes before the first config waits in the queues, so that a proxy that starts costs nobody an error; but not for ever.
    cdef uint32_t i
    if w.listening:
        return
    w.listening = 1
    for i in range(w.nlisteners):
        reactor_add(&w.r, &w.listeners[i].src, EPOLLIN)


cdef void no_config_yet(void *arg, uint64_t now_ms) noexcept nogil:
    listen_now(<Worker *>arg)


cdef void take_config(Worker *w) noexcept nogil:
    cdef Snap s
    cdef uint64_t gen = snap_current(&w.seg, &s)
    cdef uint32_t i
    if gen == w.snap.generation or gen == 0 or gen == w.refused_gen:
        return
    # whatever can fail comes before what cannot be taken back: take_tls drops the contexts in use once it has the new ones
    if router_prepare(&s) != FM_OK or take_tls(w, &s) != FM_OK:
        w.refused_gen = gen
        fm_store_release(&w.seg.slot.refused_gen, gen)
        stat_inc(w.seg.stats, ST_SNAP_REFUSED)
        return
    router_commit()
    w.snap = s
    for i in range(w.nlisteners):
        take_listener(w, &w.listeners[i], &s)
    if w.tls_fresh:
        cut_denied(w)
    if not w.listening:
        fm_trim_files()          # once, before anybody is served: what making the TLS contexts needed
    listen_now(w)
    upstream_sweep(w)
    healthcheck_config(w)
    stat_inc(w.seg.stats, ST_SNAP_SWITCH)
    fm_store_release(&w.seg.slot.seen_gen, gen)


# ---- turns -----------------------------------------------------------------------------------------------------------------------

cdef void turn_begin(Reactor *r) noexcept nogil:
    cdef Worker *w = <Worker *>r.ctx
    overload_probe(w)
    take_config(w)
    if r.now_ms // 1000 != w.date_s:
        w.date_s = r.now_ms // 1000
        time_gmt(w.date, sizeof(w.date))
    if fm_load_acquire32(&w.seg.slot.order) and not r.stop:
        obey(w)


cdef void sweep(Worker *w) noexcept nogil:
    # close what is idle
    cdef Down *d = w.downs_head
    cdef Down *nxt
    while d != NULL:
        nxt = d.next
        if d.version == DOWN_H2:
            h2s_sweep(<H2s *>d)
        elif d.version == DOWN_TCP:
            tcp_sweep(<Tcp *>d)
        else:
            h1s_sweep(<H1s *>d)
        d = nxt


cdef void turn_end(Reactor *r) noexcept nogil:
    cdef Worker *w = <Worker *>r.ctx
    exchange_reap(w)
    down_reap(w)
    h1c_reap(w)
    h2c_reap(w)
    healthcheck_reap(w)
    conn_reap(r)
    w.seg.slot.heartbeat_ns = r.now_ns
    w.seg.slot.loops = r.turns
    w.seg.slot.mem_bytes = r.bufs.held + r.bufs.kept
    w.seg.slot.upstreams = r.nconns - w.downs.live - w.h2_downs.live - w.tcps.live - w.checks.live
    if w.draining:
        if r.now_ms >= w.drain_idle_ms:
            sweep(w)             # in every turn from now on: answers that began before the drain did not say close
        # also what was answered and is still being read
        if r.nconns == 0 or r.now_ms >= w.drain_deadline_ms:
            r.stop = 1


cdef void tell(Worker *w) noexcept nogil:
    # who can be told that a drain begins
    cdef Down *d = w.downs_head
    while d != NULL:
        if d.version == DOWN_H2:
            h2s_drain(<H2s *>d)
        d = d.next


cdef void on_wake(Source *s, uint32_t events) noexcept nogil:
    cdef uint64_t v
    read(s.fd, &v, 8)            # what it is about stands in the segment


cdef void drain_tick(void *arg, uint64_t now_ms) noexcept nogil:
    pass                         # there to end the wait: turn_end looks at the clock


cdef void obey(Worker *w) noexcept nogil:
    cdef uint32_t order = fm_load_acquire32(&w.seg.slot.order)
    cdef uint64_t deadline = w.seg.slot.drain_deadline_ns // 1000000
    cdef uint32_t i
    if order == ORDER_STOP:
        w.r.stop = 1
    elif order == ORDER_DRAIN and not w.draining:
        for i in range(w.nlisteners):
            if w.listening:
                accept_all(&w.listeners[i])  # who is in the queue has been promised service
                reactor_del(&w.r, &w.listeners[i].src)
            close(w.listeners[i].src.fd)
            w.listeners[i].src.fd = -1
        w.draining = 1
        w.drain_deadline_ms = deadline if deadline else w.r.now_ms + 45000
        w.drain_idle_ms = w.r.now_ms + w.opt.drain_idle_ms
        if w.drain_idle_ms > w.drain_deadline_ms:
            w.drain_idle_ms = w.drain_deadline_ms
        fm_store_release32(&w.seg.slot.state, W_DRAINING)
        upstream_close_idle(w)
        healthcheck_stop(w)
        tell(w)
        timer_set(&w.r.wheel, &w.drain_timer, w.drain_idle_ms)


# ---- accepting -------------------------------------------------------------------------------------------------------------------

cdef void accept_one(ListenerState *l, int fd, const Addr *peer) noexcept nogil:
    cdef Addr called
    cdef bint elsewhere = False  # it is not for the listener's own table
    memset(&called, 0, sizeof(called))
    if l.flags & LF_CAPTURED and sock_original(fd, &called):
        stat_inc(l.w.seg.stats, ST_CX_CAPTURED)
        elsewhere = l.kind != L_INBOUND or called.port != l.app_port
    if elsewhere or l.flags & LF_TCP:
        tcp_accept(l.w, l, fd, peer, &called)
    else:
        h1s_accept(l.w, l, fd, peer)


cdef int accept_some(ListenerState *l, uint32_t most) noexcept nogil:
    # 0: the queue is empty; 1: there may be more; 2: out of descriptors or memory
    cdef Addr peer
    cdef int fd
    while most:
        most -= 1
        fd = sock_accept(l.src.fd, &peer)
        if fd >= 0:
            accept_one(l, fd, &peer)
        elif fd == -EAGAIN:
            return 0
        elif fd != -ECONNABORTED and fd != -EINTR:
            return 2
    return 1


cdef void accept_all(ListenerState *l) noexcept nogil:
    while l.src.fd >= 0 and accept_some(l, 64) == 1:
        pass


cdef void accept_go(void *arg) noexcept nogil:
    cdef ListenerState *l = <ListenerState *>arg
    cdef int rc
    if l.src.fd < 0:
        return
    rc = accept_some(l, l.w.opt.accept_batch)
    if rc == 1:
        reactor_task(&l.w.r, &l.task)
    elif rc == 2:
        timer_set(&l.w.r.wheel, &l.retry, l.w.r.now_ms + ACCEPT_RETRY_MS)


cdef void accept_retry(void *arg, uint64_t now_ms) noexcept nogil:
    accept_go(arg)


cdef void on_listener(Source *s, uint32_t events) noexcept nogil:
    accept_go(s)


# ---- the one entry ---------------------------------------------------------------------------------------------------------------

cdef int worker_run(Worker *w) noexcept nogil:
    if reactor_add(&w.r, &w.wake, EPOLLIN) != FM_OK or overload_init(w) != FM_OK:
        return 1
    w.r.turn_begin = turn_begin
    w.r.turn_end = turn_end
    take_config(w)
    if not w.listening:
        timer_set(&w.r.wheel, &w.first_timer, w.r.now_ms + w.opt.config_wait_ms)
    fm_store_release32(&w.seg.slot.state, W_SERVING)
    reactor_run(&w.r)
    fm_store_release32(&w.seg.slot.state, W_GONE)
    return EXIT_LEAK if leaked(w) else 0


cdef bint leaked(Worker *w) noexcept nogil:
    # When every connection is gone nothing else may be there: an account that does not close is a defect, and is told as one.
    while w.downs_head != NULL:
        if w.downs_head.version == DOWN_H2:
            h2s_cut(<H2s *>w.downs_head)
        elif w.downs_head.version == DOWN_TCP:
            tcp_cut(<Tcp *>w.downs_head)
        else:
            h1s_cut(<H1s *>w.downs_head)
    upstream_cut(w)
    h2c_cut(w)
    healthcheck_stop(w)
    reactor_forget_tasks(&w.r)
    exchange_reap(w)
    down_reap(w)
    h1c_reap(w)
    h2c_reap(w)
    healthcheck_reap(w)
    if w.r.nconns != 0:
        return False             # some were still being flushed at the deadline
    return (w.exchanges.live != 0 or w.downs.live != 0 or w.ups.live != 0 or w.h2_downs.live != 0 or w.h2_ups.live != 0 or w.streams.live != 0
            or w.checks.live != 0 or w.tcps.live != 0 or w.pipes.live != 0 or w.r.bufs.live != 0 or w.r.bufs.held != 0)


cdef uint64_t option(dict given, str name) except? 0:
    cdef object v = given.get(name, OPTIONS[name][0])
    if not isinstance(v, int) or v < 0:
        raise ValueError(f"option {name}: a whole number is wanted, not {v!r}")
    return v


def run_worker(Segment segment, int slot, list listeners, dict options) -> int:
    """Serve on `listeners` ([(listener name, listening fd)]) as worker `slot` of `segment` until it is told to stop; the exit status.

    `options`: see OPTIONS; unknown ones are refused (ValueError). Ends with 0 after ORDER_DRAIN or ORDER_STOP, 1 when it cannot start.
    """
    cdef Worker *w
    cdef ListenerState *l
    cdef bytes raw
    cdef uint64_t seed = 0
    cdef int rc
    for name in options:
        if name not in OPTIONS:
            raise ValueError(f"unknown option {name!r}; known: {', '.join(OPTIONS)}")
    if len(listeners) > MAX_LISTENERS:
        raise ValueError(f"{len(listeners)} listeners; at most {MAX_LISTENERS}")
    w = <Worker *>calloc(1, sizeof(Worker))
    if w == NULL:
        raise MemoryError
    w.opt.max_connections = <uint32_t>option(options, "max_connections")
    w.opt.max_exchanges = <uint32_t>option(options, "max_exchanges")
    w.opt.max_memory = option(options, "max_memory")
    w.opt.idle_timeout_ms = <uint32_t>option(options, "idle_timeout_ms")
    w.opt.header_timeout_ms = <uint32_t>option(options, "header_timeout_ms")
    w.opt.stream_idle_timeout_ms = <uint32_t>option(options, "stream_idle_timeout_ms")
    w.opt.handshake_timeout_ms = <uint32_t>option(options, "handshake_timeout_ms")
    w.opt.drain_idle_ms = <uint32_t>option(options, "drain_idle_ms")
    w.opt.config_wait_ms = <uint32_t>option(options, "config_wait_ms")
    w.opt.shed_lag_ms = <uint32_t>option(options, "shed_lag_ms")
    w.opt.accept_batch = <uint32_t>option(options, "accept_batch")
    # one connection more for each exchange: its upstream
    if reactor_init(&w.r, w.opt.max_memory, w.opt.max_connections + w.opt.max_exchanges + HEALTH_CHECKS, sizeof(Conn)) != FM_OK:
        raise MemoryError
    w.r.ctx = w
    w.hbuf = <char *>malloc(HBUF_BYTES)
    w.arena = <char *>malloc(H2_ARENA)
    w.pools = <UpPool *>calloc(EP_CELLS, sizeof(UpPool))
    w.rr = <uint32_t *>calloc(EP_CELLS, sizeof(uint32_t))
    w.dice = <uint64_t *>calloc(CL_CELLS, sizeof(uint64_t))
    w.checked = <uint32_t *>calloc(CL_CELLS, sizeof(uint32_t))
    w.shares = <LevelShares *>calloc(CL_CELLS, sizeof(LevelShares))
    if w.hbuf == NULL or w.arena == NULL or w.pools == NULL or w.rr == NULL or w.dice == NULL or w.checked == NULL or w.shares == NULL or (
            segment_map(segment, slot, &w.seg) != FM_OK):
        raise MemoryError
    pool_init(&w.exchanges, sizeof(Exchange), w.opt.max_exchanges + SHED_SPARE)
    pool_init(&w.downs, sizeof(H1s), w.opt.max_connections)
    pool_init(&w.ups, sizeof(H1c), w.opt.max_exchanges)
    pool_init(&w.h2_downs, sizeof(H2s), w.opt.max_connections)
    pool_init(&w.h2_ups, sizeof(H2c), w.opt.max_exchanges)
    pool_init(&w.streams, sizeof(H2Stream), 2 * w.opt.max_exchanges + SHED_SPARE + HEALTH_CHECKS)
    pool_init(&w.tcps, sizeof(Tcp), w.opt.max_connections)
    getrandom(&seed, sizeof(seed), 0)
    w.rng = seed | 1
    h1s_init(w)
    h1c_init(w)
    h2s_init(w)
    h2c_init(w)
    tcp_init(w)
    pending_init(w)
    healthcheck_init(w)
    w.drain_timer.fn = drain_tick
    w.first_timer.fn = no_config_yet
    w.first_timer.arg = w
    w.unconfigured.w = w
    w.unconfigured.table = w.unconfigured.authz = SNAP_NONE
    w.wake.fn = on_wake
    w.wake.fd = w.seg.wake_fd
    for name, fd in listeners:
        l = &w.listeners[w.nlisteners]
        raw = name.encode()
        l.src.fn = on_listener
        l.src.fd = fd
        l.w = w
        l.id = fnv64(raw, len(raw))
        l.table = l.tcp_table = l.authz = SNAP_NONE
        l.task.fn = accept_go
        l.task.arg = l
        l.retry.fn = accept_retry
        l.retry.arg = l
        w.nlisteners += 1
    block_signals()              # orders come through the segment; Python's `signal` would cost a megabyte here
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    raw = b"fastmesh-w%d" % slot
    prctl(PR_SET_NAME, <unsigned long><char *>raw, 0, 0, 0)
    with nogil:
        rc = worker_run(w)
    return rc
