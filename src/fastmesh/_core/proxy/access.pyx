"""Whether a request may go on (L3). See access.pxd."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset
from fastmesh._core.base.err cimport FM_EHEAD, FM_OK
from fastmesh._core.base.sys cimport AF_INET, AF_INET6, inet_pton
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.net.sock cimport Addr, sock_local
from fastmesh._core.net.tls cimport tls_peer_id
from fastmesh._core.policy.authz cimport AuthzAddr, AuthzReq, AuthzVerdict, authz_judge
from fastmesh._core.proto.msg cimport H_NONE, H_X_FORWARDED_FOR, HF_DROP, MF_ABSOLUTE, Msg
from fastmesh._core.proto.pathnorm cimport PATH_REFUSED, PATH_SAME, path_normalize
from fastmesh._core.proxy.ctx cimport AU_AUDITED, AU_DRY_ALLOWED, AU_DRY_DENIED, XF_REHEARSED, Exchange, ListenerState, Tcp, Worker
from fastmesh._core.proxy.forward cimport forward_keep_field, hbuf_take
from fastmesh._core.proxy.log cimport log_keep_details, log_keep_request
from fastmesh._core.proxy.respond cimport RE_DENIED, RE_PATH
from fastmesh._core.shm.authztab cimport AZ_DEST_IP, AZ_PATH, AZ_TELL, SnapAuthz
from fastmesh._core.shm.snapshot cimport SNAP_NONE, snap_at
from fastmesh._core.shm.stats cimport (
    DIR_INBOUND, SEC_MTLS, ST_RBAC_ALLOWED, ST_RBAC_AUDITED, ST_RBAC_SHADOW_ALLOWED, ST_RBAC_SHADOW_DENIED, stat_inc)

cdef enum:
    DETAILS_EXTRA = 48           # what stands around a rule's name


cdef void take_address(AuthzAddr *to, const Addr *from_) noexcept nogil:
    to.family = from_.family
    memcpy(to.a, from_.a, 16)


cdef void take_remote(const Exchange *ex, const Msg *m, AuthzAddr *to) noexcept nogil:
    # Who the client is: a gateway sees it. A sidecar is told, and believes only a peer that has shown a certificate, and of what it says the last
    # (Envoy's, without trusted hops).
    cdef const char *p = NULL
    cdef uint32_t n = 0
    cdef uint32_t i
    cdef char text[64]
    take_address(to, &ex.peer_addr)
    if ex.direction != DIR_INBOUND or ex.security != SEC_MTLS:
        return
    for i in range(m.nhdr):
        if m.hdr[i].id == H_X_FORWARDED_FOR and not m.hdr[i].flags & HF_DROP:
            p = m.hdr[i].value
            n = m.hdr[i].value_n
    i = n
    while i > 0 and p[i - 1] != c',':
        i -= 1
    while i < n and (p[i] == c' ' or p[i] == c'\t'):
        i += 1
    while n > i and (p[n - 1] == c' ' or p[n - 1] == c'\t'):
        n -= 1
    if n == i or n - i >= sizeof(text):
        return
    memcpy(text, p + i, n - i)
    text[n - i] = 0
    if inet_pton(AF_INET, text, to.a) == 1:
        to.family = 4
    elif inet_pton(AF_INET6, text, to.a) == 1:
        to.family = 6


cdef int take_path(Exchange *ex, Msg *m, Slice *judged) noexcept nogil:
    cdef Slice sent
    cdef char *p
    cdef uint32_t n
    cdef int rc
    p = hbuf_take(ex.w, 2 * m.path.n)
    if p == NULL:
        return FM_EHEAD
    rc = path_normalize(m.path, p, &sent, judged)
    if rc == PATH_SAME:
        ex.w.hused -= 2 * m.path.n
        return FM_OK
    if rc == PATH_REFUSED:
        return RE_PATH
    m.path = sent
    if m.flags & MF_ABSOLUTE:
        return FM_OK             # proxy/forward makes the target of these
    p = hbuf_take(ex.w, sent.n + 1 + m.query.n)
    if p == NULL:
        return FM_EHEAD
    memcpy(p, sent.p, sent.n)
    n = sent.n
    if m.query.n:
        p[n] = c'?'
        memcpy(p + n + 1, m.query.p, m.query.n)
        n += 1 + m.query.n
    m.target = slice_of(p, n)
    return FM_OK


cdef int deny(Exchange *ex, const Msg *m, Slice rule, bint tell) noexcept nogil:
    cdef const char *none = b"none"
    cdef char *p
    cdef uint32_t n = 34
    log_keep_request(ex, m)
    if rule.n == 0:
        rule = slice_of(none, 4)
    p = hbuf_take(ex.w, rule.n + DETAILS_EXTRA)
    if p == NULL:
        return RE_DENIED
    memcpy(p, b"rbac_access_denied_matched_policy[", n)
    memcpy(p + n, rule.p, rule.n)
    n += rule.n
    p[n] = c']'
    p[n + 1] = 0
    log_keep_details(ex, slice_of(p, n + 1))
    if ex.flags & XF_REHEARSED:
        ex.details = p           # it is read before the buffer is used again
    if tell:
        forward_keep_field(ex, slice_of(b"x-fastmesh-denied-by", 20), H_NONE, rule)  # without memory for it the denial stands
    return RE_DENIED


cdef uint8_t judged(Worker *w, const AuthzVerdict *v) noexcept nogil:
    # AU_* bits, counted: what is told of a verdict beside whether it lets pass
    cdef uint8_t told = 0
    if v.audited:
        told |= AU_AUDITED
        stat_inc(w.seg.stats, ST_RBAC_AUDITED)
    if v.dry_allowed:
        told |= AU_DRY_ALLOWED
        stat_inc(w.seg.stats, ST_RBAC_SHADOW_ALLOWED)
    elif v.dry_denied:
        told |= AU_DRY_DENIED
        stat_inc(w.seg.stats, ST_RBAC_SHADOW_DENIED)
    if not v.denied:
        stat_inc(w.seg.stats, ST_RBAC_ALLOWED)
    return told


cdef int access_judge(Exchange *ex, Msg *m, const ListenerState *l) noexcept nogil:
    cdef Worker *w = ex.w
    cdef const SnapAuthz *a
    cdef AuthzVerdict *v = &w.verdict
    cdef AuthzReq q
    cdef Addr here
    cdef char sid[2048]          # SPIFFE_ID_MAX: all that a certificate can say
    cdef int rc
    if l.authz == SNAP_NONE:
        return FM_OK
    a = <const SnapAuthz *>snap_at(&w.snap, w.snap.h.authz.off) + l.authz
    memset(&q, 0, sizeof(q))
    q.m = m
    q.path = m.path
    q.port = a.port if a.port else l.port
    if a.flags & AZ_PATH:
        rc = take_path(ex, m, &q.path)
        if rc != FM_OK:
            log_keep_request(ex, m)
            return rc
    if w.asking == NULL:
        q.identity = w.claimed
    elif w.asking.tls != NULL and ex.security == SEC_MTLS:
        # not ex.peer: that table is for metrics, and has one row for all whom it has no place for
        q.identity = slice_of(sid, tls_peer_id(w.asking.tls, sid, sizeof(sid)))
    take_address(&q.source, &ex.peer_addr)
    take_remote(ex, m, &q.remote)
    if a.flags & AZ_DEST_IP and w.asking != NULL:
        sock_local(w.asking.src.fd, &here)
        take_address(&q.dest, &here)
    authz_judge(&w.snap, a, &q, v)
    ex.authz |= judged(w, v)
    return deny(ex, m, v.rule, (a.flags & AZ_TELL) != 0) if v.denied else FM_OK


cdef bint access_session(Tcp *t, const Addr *called, AuthzVerdict *v) noexcept nogil:
    cdef Worker *w = t.w
    cdef const SnapAuthz *a = <const SnapAuthz *>snap_at(&w.snap, w.snap.h.authz.off) + t.listener.authz
    cdef AuthzReq q
    cdef char sid[2048]          # SPIFFE_ID_MAX
    memset(&q, 0, sizeof(q))
    q.port = a.port if a.port else t.listener.port
    if t.conn.called.family and t.listener.app_port != t.conn.called.port:
        q.port = t.conn.called.port  # not the application's: a policy that lets callers in there says nothing of this one
    if t.security == SEC_MTLS:
        q.identity = slice_of(sid, tls_peer_id(t.conn.tls, sid, sizeof(sid)))
    take_address(&q.source, &t.peer_addr)
    take_address(&q.remote, &t.peer_addr)
    if a.flags & AZ_DEST_IP:
        take_address(&q.dest, called)
    authz_judge(&w.snap, a, &q, v)
    t.authz |= judged(w, v)
    return not v.denied
