"""Reading a config generation (L1): the check that runs once before it is published, and look-ups by stable id.

The check is total: whatever the bytes, it ends and reads only base[0:n]. What passes it needs no bounds check later: every
offset lies in a section whose elements were checked, every count fits, every index has its element. It also refuses what would
let config write into the wire format (line ends in header values). It knows nothing of where the bytes came from.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastmesh._core.base.err cimport FM_ESNAP, FM_OK
from fastmesh._core.shm.check cimport CHECK_STEPS, Check, alpn_ok, fault, section_ok, steps_ok, str_ok, token_ok, within
from fastmesh._core.shm.check_actions cimport check_actions
from fastmesh._core.shm.check_authz cimport check_authz
from fastmesh._core.shm.check_clusters cimport check_clusters
from fastmesh._core.shm.check_routes cimport check_routes
from fastmesh._core.shm.layout cimport SNAP_SLOT_BYTES
from fastmesh._core.shm.snapshot cimport (
    LF_CAPTURED, LF_HTTPS_REDIRECT, LF_SNI, LF_TCP, L_GATEWAY, L_INBOUND, L_OUTBOUND, SNAP_MAGIC, SNAP_MAX_PATTERN, SNAP_MAX_REGEXES, SNAP_VERSION, TF_SERVER, TF_TICKETS, TF_VERIFY,
    SNAP_NONE, TLS_DISABLE, TLS_PERMISSIVE, Snap, SnapAction, SnapCluster, SnapCond, SnapDest, SnapEndpoint, SnapFault, SnapHdrOp,
    SnapHeader, SnapListener, SnapRoute, SnapStr, SnapTable, SnapTls, SnapVhost)


cdef uint64_t fnv64(const char *p, size_t n) noexcept nogil:
    cdef uint64_t h = <uint64_t>0xcbf29ce484222325
    cdef size_t i
    for i in range(n):
        h = (h ^ <uint8_t>p[i]) * <uint64_t>0x100000001b3
    return h


cdef int check_sections(Check *c) noexcept nogil:
    cdef const SnapHeader *h = c.h
    if not section_ok(c, h.listeners, sizeof(SnapListener), 8):
        return fault(c, b"listeners", 0, b"section out of bounds")
    if not section_ok(c, h.tables, sizeof(SnapTable), 8):
        return fault(c, b"tables", 0, b"section out of bounds")
    if not section_ok(c, h.vhosts, sizeof(SnapVhost), 8):
        return fault(c, b"vhosts", 0, b"section out of bounds")
    if not section_ok(c, h.routes, sizeof(SnapRoute), 8):
        return fault(c, b"routes", 0, b"section out of bounds")
    if not section_ok(c, h.conds, sizeof(SnapCond), 8):
        return fault(c, b"conds", 0, b"section out of bounds")
    if not section_ok(c, h.actions, sizeof(SnapAction), 8):
        return fault(c, b"actions", 0, b"section out of bounds")
    if not section_ok(c, h.dests, sizeof(SnapDest), 8):
        return fault(c, b"dests", 0, b"section out of bounds")
    if not section_ok(c, h.hdrops, sizeof(SnapHdrOp), 8):
        return fault(c, b"hdrops", 0, b"section out of bounds")
    if not section_ok(c, h.clusters, sizeof(SnapCluster), 8):
        return fault(c, b"clusters", 0, b"section out of bounds")
    if not section_ok(c, h.endpoints, sizeof(SnapEndpoint), 8):
        return fault(c, b"endpoints", 0, b"section out of bounds")
    if not section_ok(c, h.tls, sizeof(SnapTls), 8):
        return fault(c, b"tls", 0, b"section out of bounds")
    if not section_ok(c, h.strs, sizeof(SnapStr), 4):
        return fault(c, b"strs", 0, b"section out of bounds")
    if not section_ok(c, h.u32s, sizeof(uint32_t), 4):
        return fault(c, b"u32s", 0, b"section out of bounds")
    if not section_ok(c, h.mirrors, sizeof(SnapMirror), 8):
        return fault(c, b"mirrors", 0, b"section out of bounds")
    if not section_ok(c, h.cors, sizeof(SnapCors), 8):
        return fault(c, b"cors", 0, b"section out of bounds")
    if not section_ok(c, h.origins, sizeof(SnapOrigin), 8):
        return fault(c, b"origins", 0, b"section out of bounds")
    if not section_ok(c, h.limits, sizeof(SnapLimit), 8):
        return fault(c, b"limits", 0, b"section out of bounds")
    if not section_ok(c, h.paths, sizeof(SnapPath), 8):
        return fault(c, b"paths", 0, b"section out of bounds")
    if not section_ok(c, h.levels, sizeof(SnapLevel), 8):
        return fault(c, b"levels", 0, b"section out of bounds")
    if h.regexes.n > SNAP_MAX_REGEXES:
        return fault(c, b"regexes", 0, b"too many patterns")
    if not section_ok(c, h.regexes, sizeof(SnapStr), 4):
        return fault(c, b"regexes", 0, b"section out of bounds")
    if not str_ok(c, h.node_id) or not str_ok(c, h.service_cluster):
        return fault(c, b"header", 0, b"string out of bounds")
    return FM_OK


cdef int check_strings(Check *c) noexcept nogil:
    cdef const SnapStr *s = <const SnapStr *>(c.base + c.h.strs.off)
    cdef uint32_t i
    for i in range(c.h.strs.n):
        if not str_ok(c, s[i]):
            return fault(c, b"strs", i, b"string out of bounds")
    s = <const SnapStr *>(c.base + c.h.regexes.off)
    for i in range(c.h.regexes.n):
        if not str_ok(c, s[i]) or s[i].n > SNAP_MAX_PATTERN:
            return fault(c, b"regexes", i, b"pattern out of bounds")
    return FM_OK


cdef int check_listeners(Check *c) noexcept nogil:
    cdef const SnapListener *l = <const SnapListener *>(c.base + c.h.listeners.off)
    cdef const uint32_t *tls
    cdef uint32_t i, k
    cdef bint captured
    for i in range(c.h.listeners.n):
        if not token_ok(c, l[i].name):
            return fault(c, b"listeners", i, b"name out of bounds")
        if l[i].id != fnv64(c.base + l[i].name.off, l[i].name.n):
            return fault(c, b"listeners", i, b"id is not that of the name")
        if l[i].kind > L_INBOUND or l[i].tls_mode > TLS_PERMISSIVE or l[i].flags & ~<uint32_t>(
                LF_HTTPS_REDIRECT | LF_TCP | LF_SNI | LF_CAPTURED):
            return fault(c, b"listeners", i, b"kind, TLS mode or flag unknown")
        if (l[i].flags & LF_TCP and l[i].flags & LF_HTTPS_REDIRECT) or (
                l[i].flags & LF_SNI and (l[i].flags & LF_TCP == 0 or l[i].tls_mode != TLS_DISABLE)):
            return fault(c, b"listeners", i, b"flags that exclude each other")
        if l[i].flags & LF_CAPTURED and (l[i].kind == L_GATEWAY or l[i].flags & LF_SNI or (
                l[i].kind == L_OUTBOUND and (l[i].flags & LF_TCP or l[i].tls_mode != TLS_DISABLE or l[i].authz != SNAP_NONE))):
            return fault(c, b"listeners", i, b"not for connections that are redirected")
        if l[i].table >= c.h.tables.n:
            return fault(c, b"listeners", i, b"no such route table")
        captured = (l[i].flags & LF_CAPTURED) != 0
        if (captured and l[i].tcp_table >= c.h.tables.n) or (not captured and (l[i].tcp_table != SNAP_NONE or l[i].app_port != 0)):
            return fault(c, b"listeners", i, b"a table for what is redirected of no use, or none")
        if l[i].authz != SNAP_NONE and l[i].authz >= c.h.authz.n:
            return fault(c, b"listeners", i, b"no such authorization policies")
        if not within(c.h.u32s, sizeof(uint32_t), l[i].tls):
            return fault(c, b"listeners", i, b"TLS list out of bounds")
        if l[i].tls_mode != TLS_DISABLE and l[i].tls.n == 0:
            return fault(c, b"listeners", i, b"TLS without a certificate")
        if not steps_ok(c, l[i].tls.n):
            return fault(c, b"listeners", i, b"too much to look at")
        tls = <const uint32_t *>(c.base + l[i].tls.off)
        for k in range(l[i].tls.n):
            if tls[k] >= c.h.tls.n:
                return fault(c, b"listeners", i, b"no such TLS context")
    return FM_OK


cdef int check_tls(Check *c) noexcept nogil:
    cdef const SnapTls *t = <const SnapTls *>(c.base + c.h.tls.off)
    cdef uint32_t i
    for i in range(c.h.tls.n):
        if t[i].flags & ~<uint32_t>(TF_SERVER | TF_VERIFY | TF_TICKETS) or (t[i].min_version != 0x0303 and t[i].min_version != 0x0304):
            return fault(c, b"tls", i, b"flag or version unknown")
        if not str_ok(c, t[i].name) or not str_ok(c, t[i].cert) or not str_ok(c, t[i].private_key) or not str_ok(c, t[i].ca) \
                or not str_ok(c, t[i].trust_domain) or not str_ok(c, t[i].denied):
            return fault(c, b"tls", i, b"string out of bounds")
        if not alpn_ok(c, t[i].alpn):
            return fault(c, b"tls", i, b"ALPN list malformed")
        if not within(c.h.strs, sizeof(SnapStr), t[i].hosts):
            return fault(c, b"tls", i, b"names out of bounds")
    return FM_OK


cdef int snap_fault(const char *base, uint64_t n, SnapFault *why) noexcept nogil:
    cdef Check c
    cdef int rc
    c.base = base
    c.n = n
    c.h = <const SnapHeader *>base
    c.why = why
    c.left = n * CHECK_STEPS
    c.nspans = 0
    why.section = b"header"
    why.index = 0
    why.what = b""
    if n < sizeof(SnapHeader) or n > SNAP_SLOT_BYTES or <size_t>base & 7 != 0:
        return fault(&c, b"header", 0, b"size or alignment")
    if c.h.magic != SNAP_MAGIC or c.h.version != SNAP_VERSION:
        return fault(&c, b"header", 0, b"not a snapshot of this version")
    if c.h.bytes != n:
        return fault(&c, b"header", 0, b"cut off, or followed by more")
    if c.h.checksum != fnv64(base + sizeof(SnapHeader), n - sizeof(SnapHeader)):
        return fault(&c, b"header", 0, b"checksum does not fit")
    rc = check_sections(&c)
    if rc == FM_OK:
        rc = check_strings(&c)
    if rc == FM_OK:
        rc = check_tls(&c)
    if rc == FM_OK:
        rc = check_listeners(&c)
    if rc == FM_OK:
        rc = check_clusters(&c)
    if rc == FM_OK:
        rc = check_actions(&c)
    if rc == FM_OK:
        rc = check_routes(&c)
    if rc == FM_OK:
        rc = check_authz(&c)
    return rc


cdef int snap_check(const char *base, uint64_t n) noexcept nogil:
    cdef SnapFault why
    return snap_fault(base, n, &why)


cdef int snap_open(Snap *s, const char *base) noexcept nogil:
    s.base = base
    s.h = <const SnapHeader *>base
    s.generation = s.h.generation
    return FM_OK if s.h.magic == SNAP_MAGIC and s.h.version == SNAP_VERSION else FM_ESNAP


cdef const SnapCluster *snap_cluster(const Snap *s, uint64_t cid) noexcept nogil:
    cdef const SnapCluster *k = <const SnapCluster *>(s.base + s.h.clusters.off)
    cdef uint32_t lo = 0
    cdef uint32_t hi = s.h.clusters.n
    cdef uint32_t mid
    while lo < hi:
        mid = lo + ((hi - lo) >> 1)
        if k[mid].id < cid:
            lo = mid + 1
        else:
            hi = mid
    return &k[lo] if lo < s.h.clusters.n and k[lo].id == cid else NULL


cdef const SnapListener *snap_listener(const Snap *s, uint64_t lid) noexcept nogil:
    cdef const SnapListener *l = <const SnapListener *>(s.base + s.h.listeners.off)
    cdef uint32_t i
    for i in range(s.h.listeners.n):
        if l[i].id == lid:
            return &l[i]
    return NULL
