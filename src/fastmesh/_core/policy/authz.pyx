"""Authorization (L2). See authz.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from fastmesh._core.base.view cimport Slice, ascii_lower, slice_ieq, slice_of
from fastmesh._core.proto.msg cimport H_X_FORWARDED_CLIENT_CERT, HF_DROP, Msg
from fastmesh._core.shm.authztab cimport (
    AG_ALLOW, AG_AUDIT, AG_DENY, AG_DRY_ALLOW, AG_DRY_DENY, AO_EXACT, AO_NET, AO_PREFIX, AO_SUFFIX, AO_TEMPLATE, AT_ACCOUNT, AT_DEST_IP,
    AT_DEST_PORT, AT_HEADER, AT_HOST, AT_HTTP, AT_METHOD, AT_NAMESPACE, AT_PATH, AT_PRINCIPAL, AT_REMOTE_IP, AT_SOURCE_IP, AUTHZ_HASH,
    AZ_ALLOW, AZ_DRY_ALLOW, SnapAuthz, SnapAuthzDim, SnapAuthzKey, authz_hash, authz_hash_end, authz_hash_step)
from fastmesh._core.shm.snapshot cimport SNAP_NONE, Snap, SnapStr, snap_at, snap_str

cdef enum:
    WORDS_MOST = 512             # SNAP_MAX_TERMS / 32
    SCRATCH = 8192               # a host in lower case, or the fields of one name joined: longer ones are denied
    SPIFFE_N = 9                 # spiffe://
    FOUND_NOT = 0
    FOUND = 1
    FOUND_TOO_LONG = 2

cdef struct Scratch:
    uint32_t n
    char p[8192]                 # SCRATCH


# ---- patterns --------------------------------------------------------------------------------------------------------------------

cdef bint glob_fits(Slice want, Slice have) noexcept nogil:
    # the last star takes as much as is needed: linear in have for each star
    cdef uint32_t w = 0
    cdef uint32_t h = 0
    cdef uint32_t star = SNAP_NONE
    cdef uint32_t mark = 0
    while h < have.n:
        if w < want.n and want.p[w] == c'*':
            star = w
            mark = h
            w += 1
        elif w < want.n and want.p[w] == have.p[h]:
            w += 1
            h += 1
        elif star != SNAP_NONE:
            w = star + 1
            mark += 1
            h = mark
        else:
            return False
    while w < want.n and want.p[w] == c'*':
        w += 1
    return w == want.n


cdef bint template_fits(Slice want, Slice have) noexcept nogil:
    # {*}: a segment, at least a byte of it; {**}, the last of them: any bytes. Each stands for whole segments (compile/authz).
    cdef uint32_t w = 0
    cdef uint32_t h = 0
    cdef uint32_t rest
    while w < want.n:
        if want.n - w >= 3 and want.p[w] == c'{' and want.p[w + 1] == c'*' and want.p[w + 2] == c'}':
            if h == have.n or have.p[h] == c'/':
                return False
            while h < have.n and have.p[h] != c'/':
                h += 1
            w += 3
        elif want.n - w >= 4 and want.p[w] == c'{' and want.p[w + 1] == c'*' and want.p[w + 2] == c'*' and want.p[w + 3] == c'}':
            rest = want.n - w - 4
            return have.n - h >= rest and memcmp(want.p + w + 4, have.p + have.n - rest, rest) == 0
        elif h < have.n and want.p[w] == have.p[h]:
            w += 1
            h += 1
        else:
            return False
    return h == have.n


# ---- sets of terms ---------------------------------------------------------------------------------------------------------------

cdef inline void take(const Snap *s, const SnapAuthzKey *k, uint32_t words, uint32_t *got) noexcept nogil:
    cdef const uint32_t *v = <const uint32_t *>snap_at(s, k.terms.off)
    cdef uint32_t i
    if k.dense:
        for i in range(words):
            got[i] |= v[i]
    else:
        for i in range(k.terms.n):
            got[v[i] >> 5] |= <uint32_t>1 << (v[i] & 31)


cdef inline void look(const Snap *s, const SnapAuthzDim *d, uint64_t hash, int op, const char *p, uint32_t n, uint32_t words, uint32_t *got) noexcept nogil:
    cdef const SnapAuthzKey *k = <const SnapAuthzKey *>snap_at(s, d.buckets.off)
    cdef uint32_t i = <uint32_t>hash & (d.buckets.n - 1)
    while k[i].hash:
        if k[i].hash == hash and k[i].op == op and k[i].value.n == n and memcmp(s.base + k[i].value.off, p, n) == 0:
            take(s, &k[i], words, got)
            return
        i = (i + 1) & (d.buckets.n - 1)


cdef void by_text(const Snap *s, const SnapAuthzDim *d, Slice v, uint32_t words, uint32_t *got) noexcept nogil:
    cdef const uint32_t *lengths = <const uint32_t *>snap_at(s, d.prefixes.off)
    cdef const SnapAuthzKey *slow = <const SnapAuthzKey *>snap_at(s, d.slow.off)
    cdef uint64_t h = AUTHZ_HASH
    cdef uint32_t at = 0
    cdef uint32_t i
    if d.buckets.n:
        for i in range(d.prefixes.n):
            if lengths[i] > v.n:
                break
            while at < lengths[i]:
                h = authz_hash_step(h, <uint8_t>v.p[at])
                at += 1
            look(s, d, authz_hash_end(h, AO_PREFIX), AO_PREFIX, v.p, at, words, got)
        if v.n <= d.longest:
            while at < v.n:
                h = authz_hash_step(h, <uint8_t>v.p[at])
                at += 1
            look(s, d, authz_hash_end(h, AO_EXACT), AO_EXACT, v.p, v.n, words, got)
        lengths = <const uint32_t *>snap_at(s, d.suffixes.off)
        h = AUTHZ_HASH
        at = 0
        for i in range(d.suffixes.n):
            if lengths[i] > v.n:
                break
            while at < lengths[i]:
                at += 1
                h = authz_hash_step(h, <uint8_t>v.p[v.n - at])
            look(s, d, authz_hash_end(h, AO_SUFFIX), AO_SUFFIX, v.p + v.n - at, at, words, got)
    for i in range(d.slow.n):
        if template_fits(snap_str(s, slow[i].value), v) if slow[i].op == AO_TEMPLATE else glob_fits(snap_str(s, slow[i].value), v):
            take(s, &slow[i], words, got)


cdef void by_address(const Snap *s, const SnapAuthzDim *d, const AuthzAddr *from_, uint32_t words, uint32_t *got) noexcept nogil:
    cdef const uint32_t *nets = <const uint32_t *>snap_at(s, d.nets.off)
    cdef uint8_t key[18]
    cdef uint8_t family = from_.family
    cdef const uint8_t *a = <const uint8_t *>from_.a
    cdef uint32_t i, k, bits, bytes_
    if family == 6 and memcmp(a, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0:
        family = 4               # an IPv4 peer of a socket for both (RFC 4291 2.5.5.2)
        a += 12
    if family == 0 or d.buckets.n == 0:
        return
    bytes_ = 4 if family == 4 else 16
    for i in range(d.nets.n):
        if nets[i] >> 8 != family:
            continue
        bits = nets[i] & 255
        key[0] = family
        key[1] = <uint8_t>bits
        for k in range(bytes_):
            key[2 + k] = a[k] if bits >= 8 else a[k] & <uint8_t>(0xff00 >> bits)
            bits = bits - 8 if bits >= 8 else 0
        look(s, d, authz_hash(<const char *>key, 2 + bytes_, AO_NET), AO_NET, <const char *>key, 2 + bytes_, words, got)


# ---- what a request has ----------------------------------------------------------------------------------------------------------

cdef Slice place_of(Slice identity, bint account) noexcept nogil:
    # of spiffe://<domain>/ns/<namespace>/sa/<account>, whole: the namespace, or "<namespace>/sa/<account>"; else nothing
    cdef uint32_t at = SPIFFE_N
    cdef uint32_t begin, end
    if identity.n <= SPIFFE_N or memcmp(identity.p, b"spiffe://", SPIFFE_N) != 0:
        return slice_of(NULL, 0)
    while at < identity.n and identity.p[at] != c'/':
        at += 1
    if identity.n - at < 4 or memcmp(identity.p + at, b"/ns/", 4) != 0:
        return slice_of(NULL, 0)
    begin = at + 4
    end = begin
    while end < identity.n and identity.p[end] != c'/':
        end += 1
    if end == begin or identity.n - end < 5 or memcmp(identity.p + end, b"/sa/", 4) != 0:
        return slice_of(NULL, 0)
    at = end + 4
    while at < identity.n:
        if identity.p[at] == c'/':
            return slice_of(NULL, 0)
        at += 1
    return slice_of(identity.p + begin, identity.n - begin if account else end - begin)


cdef int host_of(Slice host, Scratch *t, Slice *v) noexcept nogil:
    # as the router compares: in lower case, without the name's last dot
    cdef uint32_t i
    cdef uint32_t n = 0
    if host.n == 0:
        return FOUND_NOT
    if host.n > SCRATCH:
        return FOUND_TOO_LONG
    for i in range(host.n):
        if host.p[i] == c'.' and (i + 1 == host.n or host.p[i + 1] == c':'):
            continue
        t.p[n] = <char>ascii_lower(<uint8_t>host.p[i])
        n += 1
    v[0] = slice_of(t.p, n)
    return FOUND


cdef int header_of(const Msg *m, Slice name, Scratch *t, Slice *v) noexcept nogil:
    # several fields are joined (RFC 9110 5.2). What a hop takes away or says itself is not there.
    cdef uint32_t i
    cdef uint32_t found = 0
    t.n = 0
    for i in range(m.nhdr):
        if m.hdr[i].flags & HF_DROP or m.hdr[i].id == H_X_FORWARDED_CLIENT_CERT \
                or not slice_ieq(slice_of(m.hdr[i].name, m.hdr[i].name_n), name):
            continue
        found += 1
        if found == 1:
            v[0] = slice_of(m.hdr[i].value, m.hdr[i].value_n)
            continue
        if found == 2:
            if v.n > SCRATCH:
                return FOUND_TOO_LONG
            if v.n:
                memcpy(t.p, v.p, v.n)
            t.n = v.n
        if t.n + 1 + m.hdr[i].value_n > SCRATCH:
            return FOUND_TOO_LONG
        t.p[t.n] = c','
        if m.hdr[i].value_n:
            memcpy(t.p + t.n + 1, m.hdr[i].value, m.hdr[i].value_n)
        t.n += 1 + m.hdr[i].value_n
        v[0] = slice_of(t.p, t.n)
    return FOUND if found else FOUND_NOT


cdef uint32_t port_text(uint32_t port, char *out) noexcept nogil:
    cdef char digits[10]
    cdef uint32_t n = 0
    while True:
        n += 1
        digits[10 - n] = <char>(48 + port % 10)
        port //= 10
        if port == 0:
            break
    memcpy(out, digits + 10 - n, n)
    return n


cdef int text_of(const Snap *s, const SnapAuthzDim *d, const AuthzReq *q, Scratch *t, Slice *v) noexcept nogil:
    cdef uint32_t n
    v[0] = slice_of(NULL, 0)
    if d.on == AT_PRINCIPAL:
        if q.identity.n > SPIFFE_N and memcmp(q.identity.p, b"spiffe://", SPIFFE_N) == 0:
            v[0] = slice_of(q.identity.p + SPIFFE_N, q.identity.n - SPIFFE_N)
    elif d.on == AT_NAMESPACE:
        v[0] = place_of(q.identity, False)
    elif d.on == AT_ACCOUNT:
        v[0] = place_of(q.identity, True)
    elif d.on == AT_DEST_PORT:
        n = port_text(q.port, t.p)
        v[0] = slice_of(t.p, n)
    elif q.m == NULL:
        return FOUND_NOT
    elif d.on == AT_HOST:
        return host_of(q.m.host, t, v)
    elif d.on == AT_METHOD:
        v[0] = q.m.method_name
    elif d.on == AT_PATH:
        v[0] = q.path
    elif d.on == AT_HEADER:
        return header_of(q.m, snap_str(s, d.name), t, v)
    return FOUND if v.n else FOUND_NOT


# ---- the verdict -----------------------------------------------------------------------------------------------------------------

cdef inline uint32_t first_of(const uint32_t *left, uint32_t begin, uint32_t end) noexcept nogil:
    cdef uint32_t i
    cdef uint32_t bit = 0
    for i in range(begin, end):
        if left[i]:
            while not left[i] >> bit & 1:
                bit += 1
            return i * 32 + bit
    return SNAP_NONE


cdef bint hold(const Snap *s, const SnapAuthz *a, const AuthzReq *q, uint32_t *left) noexcept nogil:
    # the terms that hold; False: a value is too long to be looked at
    cdef const SnapAuthzDim *d = <const SnapAuthzDim *>snap_at(s, a.dims.off)
    cdef const uint32_t *base
    cdef uint32_t got[512]       # WORDS_MOST
    cdef Scratch t
    cdef Slice v
    cdef uint32_t i, k
    cdef int found
    if a.words:
        memcpy(left, snap_at(s, a.live.off), a.words * sizeof(uint32_t))
    for i in range(a.dims.n):
        if d[i].on >= AT_HTTP and q.m == NULL:
            continue
        memset(got, 0, a.words * sizeof(uint32_t))
        if d[i].on == AT_SOURCE_IP:
            by_address(s, &d[i], &q.source, a.words, got)
        elif d[i].on == AT_REMOTE_IP:
            by_address(s, &d[i], &q.remote, a.words, got)
        elif d[i].on == AT_DEST_IP:
            by_address(s, &d[i], &q.dest, a.words, got)
        else:
            found = text_of(s, &d[i], q, &t, &v)
            if found == FOUND_TOO_LONG:
                return False
            if found == FOUND:
                by_text(s, &d[i], v, a.words, got)
        if d[i].negate:
            for k in range(a.words):
                left[k] &= ~got[k]
        else:
            base = <const uint32_t *>snap_at(s, d[i].base.off)
            for k in range(a.words):
                left[k] &= got[k] | base[k]
    return True


cdef void authz_judge(const Snap *s, const SnapAuthz *a, const AuthzReq *q, AuthzVerdict *out) noexcept nogil:
    cdef const SnapStr *names = <const SnapStr *>snap_at(s, a.names.off)
    cdef const uint32_t *http = <const uint32_t *>snap_at(s, a.http.off)
    cdef uint32_t left[512]      # WORDS_MOST
    cdef uint32_t i, term
    memset(out, 0, sizeof(AuthzVerdict))
    if not hold(s, a, q, left):
        out.denied = True
        return
    if q.m == NULL:
        for i in range(a.upto[AG_DENY], a.upto[AG_ALLOW]):
            left[i] &= ~http[i]
        for i in range(a.upto[AG_DRY_DENY], a.upto[AG_DRY_ALLOW]):
            left[i] &= ~http[i]
    term = first_of(left, 0, a.upto[AG_AUDIT])
    if term != SNAP_NONE:
        out.audited = True
        out.audit = snap_str(s, names[term])
    term = first_of(left, a.upto[AG_AUDIT], a.upto[AG_DENY])
    if term != SNAP_NONE:
        out.denied = True
        out.rule = snap_str(s, names[term])
    else:
        term = first_of(left, a.upto[AG_DENY], a.upto[AG_ALLOW])
        if term != SNAP_NONE:
            out.rule = snap_str(s, names[term])
        elif a.flags & AZ_ALLOW:
            out.denied = True
    term = first_of(left, a.upto[AG_ALLOW], a.upto[AG_DRY_DENY])
    if term != SNAP_NONE:
        out.dry_denied = True
        out.dry = snap_str(s, names[term])
        return
    term = first_of(left, a.upto[AG_DRY_DENY], a.upto[AG_DRY_ALLOW])
    if term != SNAP_NONE:
        out.dry = snap_str(s, names[term])
        out.dry_allowed = True
    elif a.flags & AZ_DRY_ALLOW:
        out.dry_denied = True
    else:
        out.dry_allowed = a.upto[AG_DRY_DENY] != a.upto[AG_ALLOW]
