"""The check of authorization policies (L1). See check_authz.pxd. What it lets pass policy/authz reads without bounds: each set of terms has a
bit or an index for terms that there are, each table a place that is empty."""
from libc.stdint cimport uint32_t

from fastmesh._core.base.err cimport FM_OK
from fastmesh._core.shm.authztab cimport (
    AG_N, AO_EXACT, AO_GLOB, AO_NET, AO_PREFIX, AO_SUFFIX, AO_TEMPLATE, AT_HEADER, AT_N, AZ_ALLOW, AZ_DEST_IP, AZ_DRY_ALLOW, AZ_PATH,
    AZ_TELL, SNAP_MAX_TERMS, SNAP_MAX_TEXT, SnapAuthz, SnapAuthzDim, SnapAuthzKey, authz_hash)
from fastmesh._core.shm.check cimport Check, fault, section_ok, str_ok, within
from fastmesh._core.shm.snapshot cimport SnapArr, SnapStr


cdef bint rising(Check *c, SnapArr a, uint32_t below) noexcept nogil:
    cdef const uint32_t *v = <const uint32_t *>(c.base + a.off)
    cdef uint32_t i
    if not within(c.h.u32s, sizeof(uint32_t), a):
        return False
    for i in range(a.n):
        if v[i] >= below or (i and v[i] <= v[i - 1]):
            return False
    return True


cdef bint has(Check *c, SnapArr a, uint32_t wanted) noexcept nogil:
    cdef const uint32_t *v = <const uint32_t *>(c.base + a.off)
    cdef uint32_t i
    for i in range(a.n):
        if v[i] == wanted:
            return True
    return False


cdef bint key_ok(Check *c, const SnapAuthzDim *d, const SnapAuthzKey *k, uint32_t words) noexcept nogil:
    cdef const unsigned char *p = <const unsigned char *>(c.base + k.value.off)
    if k.op > AO_GLOB or k.dense > 1 or k.value.n > SNAP_MAX_TEXT or not str_ok(c, k.value):
        return False
    if k.hash != authz_hash(<const char *>p, k.value.n, k.op):
        return False
    if k.dense:
        if k.terms.n != words or not within(c.h.u32s, sizeof(uint32_t), k.terms):
            return False
    elif not rising(c, k.terms, words * 32):
        return False
    if k.op == AO_EXACT:
        return k.value.n <= d.longest
    if k.op == AO_PREFIX:
        return has(c, d.prefixes, k.value.n)
    if k.op == AO_SUFFIX:
        return has(c, d.suffixes, k.value.n)
    if k.op == AO_NET:
        return ((k.value.n == 6 and p[0] == 4 and p[1] <= 32) or (k.value.n == 18 and p[0] == 6 and p[1] <= 128)) \
            and has(c, d.nets, <uint32_t>p[0] << 8 | p[1])
    return True


cdef int check_dim(Check *c, const SnapAuthzDim *d, uint32_t index, uint32_t words) noexcept nogil:
    cdef const SnapAuthzKey *k
    cdef const uint32_t *nets = <const uint32_t *>(c.base + d.nets.off)
    cdef uint32_t i
    cdef uint32_t empty = 0
    if d.on >= AT_N or d.negate > 1 or not str_ok(c, d.name) or (d.on == AT_HEADER) != (d.name.n != 0):
        return fault(c, b"authz_dims", index, b"attribute unknown, or its name out of bounds")
    if not within(c.h.u32s, sizeof(uint32_t), d.base) or d.base.n != (0 if d.negate else words):
        return fault(c, b"authz_dims", index, b"terms that do not ask out of bounds")
    if d.longest > SNAP_MAX_TEXT or not rising(c, d.prefixes, SNAP_MAX_TEXT + 1) or not rising(c, d.suffixes, SNAP_MAX_TEXT + 1) \
            or not rising(c, d.nets, 0x700):
        return fault(c, b"authz_dims", index, b"lengths out of bounds")
    for i in range(d.nets.n):
        if nets[i] >> 8 != 4 and nets[i] >> 8 != 6 or nets[i] & 255 > (32 if nets[i] >> 8 == 4 else 128):
            return fault(c, b"authz_dims", index, b"network out of bounds")
    if not within(c.h.authz_keys, sizeof(SnapAuthzKey), d.buckets) or d.buckets.n & (d.buckets.n - 1) != 0:
        return fault(c, b"authz_dims", index, b"buckets out of bounds")
    k = <const SnapAuthzKey *>(c.base + d.buckets.off)
    for i in range(d.buckets.n):
        if k[i].hash == 0:
            empty += 1
        elif k[i].op >= AO_TEMPLATE or not key_ok(c, d, &k[i], words):
            return fault(c, b"authz_dims", index, b"key malformed")
    if d.buckets.n and not empty:
        return fault(c, b"authz_dims", index, b"no empty bucket")
    if not within(c.h.authz_keys, sizeof(SnapAuthzKey), d.slow):
        return fault(c, b"authz_dims", index, b"patterns out of bounds")
    k = <const SnapAuthzKey *>(c.base + d.slow.off)
    for i in range(d.slow.n):
        if k[i].op < AO_TEMPLATE or not key_ok(c, d, &k[i], words):
            return fault(c, b"authz_dims", index, b"pattern malformed")
    return FM_OK


cdef int check_authz(Check *c) noexcept nogil:
    cdef const SnapAuthz *a = <const SnapAuthz *>(c.base + c.h.authz.off)
    cdef const SnapAuthzDim *d = <const SnapAuthzDim *>(c.base + c.h.authz_dims.off)
    cdef uint32_t i, k, first
    cdef int rc
    if not section_ok(c, c.h.authz, sizeof(SnapAuthz), 8):
        return fault(c, b"authz", 0, b"section out of bounds")
    if not section_ok(c, c.h.authz_dims, sizeof(SnapAuthzDim), 8):
        return fault(c, b"authz_dims", 0, b"section out of bounds")
    if not section_ok(c, c.h.authz_keys, sizeof(SnapAuthzKey), 8):
        return fault(c, b"authz_keys", 0, b"section out of bounds")
    for i in range(c.h.authz.n):
        if a[i].flags & ~<uint32_t>(AZ_ALLOW | AZ_DRY_ALLOW | AZ_TELL | AZ_PATH | AZ_DEST_IP) or a[i].port > 65535:
            return fault(c, b"authz", i, b"flag or port unknown")
        if a[i].words > SNAP_MAX_TERMS // 32 or a[i].upto[AG_N - 1] != a[i].words:
            return fault(c, b"authz", i, b"too many terms")
        for k in range(1, AG_N):
            if a[i].upto[k] < a[i].upto[k - 1]:
                return fault(c, b"authz", i, b"groups out of order")
        if a[i].names.n != a[i].words * 32 or not within(c.h.strs, sizeof(SnapStr), a[i].names):
            return fault(c, b"authz", i, b"names out of bounds")
        if a[i].http.n != a[i].words or not within(c.h.u32s, sizeof(uint32_t), a[i].http):
            return fault(c, b"authz", i, b"terms of HTTP out of bounds")
        if a[i].live.n != a[i].words or not within(c.h.u32s, sizeof(uint32_t), a[i].live):
            return fault(c, b"authz", i, b"terms that there are out of bounds")
        if not within(c.h.authz_dims, sizeof(SnapAuthzDim), a[i].dims):
            return fault(c, b"authz", i, b"attributes out of bounds")
        first = (a[i].dims.off - c.h.authz_dims.off) // <uint32_t>sizeof(SnapAuthzDim) if a[i].dims.n else 0
        for k in range(a[i].dims.n):
            rc = check_dim(c, &d[first + k], first + k, a[i].words)
            if rc != FM_OK:
                return rc
    return FM_OK
