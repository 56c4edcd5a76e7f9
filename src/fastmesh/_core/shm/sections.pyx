"""BORDER (L1): class Sections. See sections.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from fastmesh._core.shm.authztab cimport SnapAuthz, SnapAuthzDim, SnapAuthzKey
from fastmesh._core.shm.layout cimport SNAP_SLOT_BYTES
from fastmesh._core.shm.snapshot cimport (
    SNAP_MAGIC, SNAP_MAX_REGEXES, SNAP_VERSION, SnapAction, SnapArr, SnapCluster, SnapCond, SnapCors, SnapDest, SnapEndpoint, SnapHdrOp,
    SnapHeader, SnapHost, SnapLevel, SnapLimit, SnapListener, SnapMirror, SnapOrigin, SnapPath, SnapRoute, SnapStr, SnapTable, SnapTls,
    SnapVhost, fnv64)

cdef enum:
    # Bytes behind the last string. memcmp and friends load whole vectors under a mask: where such a load reaches into a page that is not
    # there, the processor takes a slow path on every call (measured: a route look-up of 50 ns took 340).
    TAIL = 64


cdef inline void move(SnapStr *s, uint32_t base) noexcept nogil:
    # an empty string stays at offset 0: always within bounds
    if s.n != 0:
        s.off += base


cdef inline void move_arr(SnapArr *a, uint32_t base) noexcept nogil:
    if a.n != 0:
        a.off += base
    else:
        a.off = 0


cdef class Sections:
    def __cinit__(self):
        memset(self.v, 0, sizeof(self.v))
        self.strings = {}
        self.patterns = {}

    def __dealloc__(self):
        for i in range(V_N):
            free(self.v[i].p)

    cdef void *grow(self, int section, size_t bytes) except NULL:
        """Room for so many bytes at the end of a section, zeroed; valid until the section grows again."""
        cdef Vec *v = &self.v[section]
        cdef size_t cap = v.cap
        cdef void *p
        if self.done:
            raise RuntimeError("finish() was called")
        if v.n + bytes > cap:
            while v.n + bytes > cap:
                cap = cap * 2 if cap else 4096
            if cap > 2 * <size_t>SNAP_SLOT_BYTES:
                raise ValueError(f"config: more than {SNAP_SLOT_BYTES} bytes when packed")
            p = realloc(v.p, cap)
            if p == NULL:
                raise MemoryError()
            v.p = <char *>p
            v.cap = cap
        p = v.p + v.n
        memset(p, 0, bytes)
        v.n += bytes
        return p

    cdef uint32_t count(self, int section, size_t size):
        return <uint32_t>(self.v[section].n / size)

    cdef SnapStr text(self, value) except *:
        cdef SnapStr s
        raw = value.encode() if isinstance(value, str) else value
        s.n = <uint32_t>len(raw)
        s.off = 0
        if s.n == 0:
            return s
        at = self.strings.get(raw)
        if at is None:
            at = self.v[V_BLOB].n
            memcpy(self.grow(V_BLOB, s.n), <const char *>raw, s.n)
            self.strings[raw] = at
        s.off = at
        return s

    cdef SnapArr run(self, pair, uint32_t size) except *:
        cdef SnapArr a
        a.off = a.n = 0
        if pair:
            a.off = <uint32_t>pair[0] * size
            a.n = pair[1]
        return a

    def regex(self, pattern: bytes) -> int:
        """The index of this pattern; check it before with regex_check."""
        cdef SnapStr s
        index = self.patterns.get(pattern)
        if index is None:
            index = self.count(V_REGEXES, sizeof(SnapStr))
            if index >= SNAP_MAX_REGEXES:
                raise ValueError(f"config: more than {SNAP_MAX_REGEXES} different regular expressions")
            s = self.text(pattern)
            (<SnapStr *>self.grow(V_REGEXES, sizeof(SnapStr)))[0] = s
            self.patterns[pattern] = index
        return index

    cdef SnapArr str_list(self, values) except *:
        cdef SnapArr a
        cdef SnapStr s
        a.off = <uint32_t>self.v[V_STRS].n
        a.n = <uint32_t>len(values)
        for value in values:
            s = self.text(value)
            (<SnapStr *>self.grow(V_STRS, sizeof(SnapStr)))[0] = s
        return a

    cdef SnapArr u32_list(self, values) except *:
        cdef SnapArr a
        a.off = <uint32_t>self.v[V_U32S].n
        a.n = <uint32_t>len(values)
        for value in values:
            (<uint32_t *>self.grow(V_U32S, sizeof(uint32_t)))[0] = value
        return a

    cdef SnapArr section(self, int which, const uint32_t *base, size_t size):
        cdef SnapArr a
        a.n = <uint32_t>(self.v[which].n / size)
        a.off = base[which] if a.n else 0
        return a

    cdef void relocate(self, const uint32_t *base) noexcept:
        cdef uint32_t blob = base[V_BLOB]
        cdef uint32_t i
        cdef SnapListener *l = <SnapListener *>self.v[V_LISTENERS].p
        cdef SnapTable *t = <SnapTable *>self.v[V_TABLES].p
        cdef SnapHost *o = <SnapHost *>self.v[V_HOSTS].p
        cdef SnapVhost *h = <SnapVhost *>self.v[V_VHOSTS].p
        cdef SnapRoute *r = <SnapRoute *>self.v[V_ROUTES].p
        cdef SnapCond *c = <SnapCond *>self.v[V_CONDS].p
        cdef SnapAction *a = <SnapAction *>self.v[V_ACTIONS].p
        cdef SnapDest *d = <SnapDest *>self.v[V_DESTS].p
        cdef SnapHdrOp *x = <SnapHdrOp *>self.v[V_HDROPS].p
        cdef SnapCluster *k = <SnapCluster *>self.v[V_CLUSTERS].p
        cdef SnapEndpoint *e = <SnapEndpoint *>self.v[V_ENDPOINTS].p
        cdef SnapTls *s = <SnapTls *>self.v[V_TLS].p
        cdef SnapStr *z = <SnapStr *>self.v[V_STRS].p
        cdef SnapPath *q = <SnapPath *>self.v[V_PATHS].p
        cdef SnapCors *p = <SnapCors *>self.v[V_CORS].p
        cdef SnapOrigin *g = <SnapOrigin *>self.v[V_ORIGINS].p
        cdef SnapLimit *n = <SnapLimit *>self.v[V_LIMITS].p
        cdef SnapLevel *v = <SnapLevel *>self.v[V_LEVELS].p
        cdef SnapAuthz *u = <SnapAuthz *>self.v[V_AUTHZ].p
        cdef SnapAuthzDim *y = <SnapAuthzDim *>self.v[V_AUTHZ_DIMS].p
        cdef SnapAuthzKey *w = <SnapAuthzKey *>self.v[V_AUTHZ_KEYS].p
        for i in range(self.count(V_LISTENERS, sizeof(SnapListener))):
            move(&l[i].name, blob)
            move_arr(&l[i].tls, base[V_U32S])
        for i in range(self.count(V_TABLES, sizeof(SnapTable))):
            move(&t[i].name, blob)
            t[i].hosts_off += base[V_HOSTS]
        for i in range(self.count(V_HOSTS, sizeof(SnapHost))):
            move(&o[i].host, blob)
        for i in range(self.count(V_VHOSTS, sizeof(SnapVhost))):
            move(&h[i].name, blob)
            move_arr(&h[i].routes, base[V_ROUTES])
            move_arr(&h[i].paths, base[V_PATHS])
            move_arr(&h[i].lengths, base[V_U32S])
            move_arr(&h[i].others, base[V_U32S])
        for i in range(self.count(V_ROUTES, sizeof(SnapRoute))):
            move(&r[i].path, blob)
            move(&r[i].name, blob)
            move_arr(&r[i].conds, base[V_CONDS])
        for i in range(self.count(V_CONDS, sizeof(SnapCond))):
            move(&c[i].name, blob)
            move(&c[i].value, blob)
        for i in range(self.count(V_ACTIONS, sizeof(SnapAction))):
            move_arr(&a[i].dests, base[V_DESTS])
            move_arr(&a[i].request_ops, base[V_HDROPS])
            move_arr(&a[i].response_ops, base[V_HDROPS])
            move(&a[i].rewrite_path, blob)
            move(&a[i].rewrite_host, blob)
            move(&a[i].redirect_scheme, blob)
            move(&a[i].redirect_host, blob)
            move(&a[i].redirect_path, blob)
            move(&a[i].body, blob)
            move_arr(&a[i].retry_statuses, base[V_U32S])
            move_arr(&a[i].mirrors, base[V_MIRRORS])
            move_arr(&a[i].limits, base[V_LIMITS])
        for i in range(self.count(V_DESTS, sizeof(SnapDest))):
            move_arr(&d[i].request_ops, base[V_HDROPS])
            move_arr(&d[i].response_ops, base[V_HDROPS])
        for i in range(self.count(V_HDROPS, sizeof(SnapHdrOp))):
            move(&x[i].name, blob)
            move(&x[i].value, blob)
        for i in range(self.count(V_CLUSTERS, sizeof(SnapCluster))):
            move(&k[i].name, blob)
            move(&k[i].service, blob)
            move(&k[i].sni, blob)
            move_arr(&k[i].endpoints, base[V_ENDPOINTS])
            move_arr(&k[i].sans, base[V_STRS])
            move(&k[i].hash_name, blob)
            move(&k[i].hash_path, blob)
            move_arr(&k[i].hash_table, base[V_U32S])
            move_arr(&k[i].levels, base[V_LEVELS])
            move(&k[i].health.path, blob)
            move(&k[i].health.host, blob)
            move(&k[i].health.service, blob)
            move_arr(&k[i].health.expected, base[V_U32S])
        for i in range(self.count(V_ENDPOINTS, sizeof(SnapEndpoint))):
            move(&e[i].text, blob)
            move(&e[i].workload, blob)
        for i in range(self.count(V_TLS, sizeof(SnapTls))):
            move(&s[i].name, blob)
            move(&s[i].cert, blob)
            move(&s[i].private_key, blob)
            move(&s[i].ca, blob)
            move(&s[i].alpn, blob)
            move(&s[i].trust_domain, blob)
            move(&s[i].denied, blob)
            move_arr(&s[i].hosts, base[V_STRS])
        for i in range(self.count(V_PATHS, sizeof(SnapPath))):
            move_arr(&q[i].routes, base[V_U32S])
        for i in range(self.count(V_CORS, sizeof(SnapCors))):
            move_arr(&p[i].origins, base[V_ORIGINS])
            move(&p[i].methods, blob)
            move(&p[i].headers, blob)
            move(&p[i].expose, blob)
            move(&p[i].max_age, blob)
        for i in range(self.count(V_ORIGINS, sizeof(SnapOrigin))):
            move(&g[i].value, blob)
        for i in range(self.count(V_LIMITS, sizeof(SnapLimit))):
            move(&n[i].name, blob)
        for i in range(self.count(V_LEVELS, sizeof(SnapLevel))):
            move_arr(&v[i].hash_table, base[V_U32S])
        for i in range(self.count(V_AUTHZ, sizeof(SnapAuthz))):
            move_arr(&u[i].dims, base[V_AUTHZ_DIMS])
            move_arr(&u[i].names, base[V_STRS])
            move_arr(&u[i].http, base[V_U32S])
            move_arr(&u[i].live, base[V_U32S])
        for i in range(self.count(V_AUTHZ_DIMS, sizeof(SnapAuthzDim))):
            move(&y[i].name, blob)
            move_arr(&y[i].base, base[V_U32S])
            move_arr(&y[i].buckets, base[V_AUTHZ_KEYS])
            move_arr(&y[i].prefixes, base[V_U32S])
            move_arr(&y[i].suffixes, base[V_U32S])
            move_arr(&y[i].nets, base[V_U32S])
            move_arr(&y[i].slow, base[V_AUTHZ_KEYS])
        for i in range(self.count(V_AUTHZ_KEYS, sizeof(SnapAuthzKey))):
            move(&w[i].value, blob)
            move_arr(&w[i].terms, base[V_U32S])
        for i in range(self.count(V_STRS, sizeof(SnapStr))):
            move(&z[i], blob)
        z = <SnapStr *>self.v[V_REGEXES].p
        for i in range(self.count(V_REGEXES, sizeof(SnapStr))):
            move(&z[i], blob)

    def finish(self, node_id: str, service_cluster: str) -> bytes:
        """The bytes of the generation, for Segment.publish (which stamps its number). The Packer is used up."""
        cdef SnapHeader h
        cdef uint32_t base[V_N]
        cdef uint64_t at = sizeof(SnapHeader)
        cdef char *out
        cdef int i
        memset(&h, 0, sizeof(h))
        h.node_id = self.text(node_id)
        h.service_cluster = self.text(service_cluster)
        for i in range(V_N):
            base[i] = <uint32_t>at
            at = (at + self.v[i].n + 7) & ~<uint64_t>7
            if at + TAIL > SNAP_SLOT_BYTES:
                raise ValueError(f"config: more than {SNAP_SLOT_BYTES} bytes when packed")
        at += TAIL
        self.done = True
        self.relocate(base)
        move(&h.node_id, base[V_BLOB])
        move(&h.service_cluster, base[V_BLOB])
        h.magic = SNAP_MAGIC
        h.version = SNAP_VERSION
        h.bytes = at
        h.listeners = self.section(V_LISTENERS, base, sizeof(SnapListener))
        h.tables = self.section(V_TABLES, base, sizeof(SnapTable))
        h.vhosts = self.section(V_VHOSTS, base, sizeof(SnapVhost))
        h.routes = self.section(V_ROUTES, base, sizeof(SnapRoute))
        h.conds = self.section(V_CONDS, base, sizeof(SnapCond))
        h.actions = self.section(V_ACTIONS, base, sizeof(SnapAction))
        h.dests = self.section(V_DESTS, base, sizeof(SnapDest))
        h.hdrops = self.section(V_HDROPS, base, sizeof(SnapHdrOp))
        h.clusters = self.section(V_CLUSTERS, base, sizeof(SnapCluster))
        h.endpoints = self.section(V_ENDPOINTS, base, sizeof(SnapEndpoint))
        h.tls = self.section(V_TLS, base, sizeof(SnapTls))
        h.strs = self.section(V_STRS, base, sizeof(SnapStr))
        h.u32s = self.section(V_U32S, base, sizeof(uint32_t))
        h.regexes = self.section(V_REGEXES, base, sizeof(SnapStr))
        h.mirrors = self.section(V_MIRRORS, base, sizeof(SnapMirror))
        h.cors = self.section(V_CORS, base, sizeof(SnapCors))
        h.origins = self.section(V_ORIGINS, base, sizeof(SnapOrigin))
        h.limits = self.section(V_LIMITS, base, sizeof(SnapLimit))
        h.levels = self.section(V_LEVELS, base, sizeof(SnapLevel))
        h.paths = self.section(V_PATHS, base, sizeof(SnapPath))
        h.authz = self.section(V_AUTHZ, base, sizeof(SnapAuthz))
        h.authz_dims = self.section(V_AUTHZ_DIMS, base, sizeof(SnapAuthzDim))
        h.authz_keys = self.section(V_AUTHZ_KEYS, base, sizeof(SnapAuthzKey))
        made = bytearray(at)
        out = made
        for i in range(V_N):
            if self.v[i].n:
                memcpy(out + base[i], self.v[i].p, self.v[i].n)
        h.checksum = fnv64(out + sizeof(SnapHeader), at - sizeof(SnapHeader))
        memcpy(out, &h, sizeof(h))
        return bytes(made)
