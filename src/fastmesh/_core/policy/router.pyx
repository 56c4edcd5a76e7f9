"""Which route a request takes (L2). Owns the compiled patterns of the generation in use; reads snapshot and Msg, writes only RouteMatch.

Cost: one hash per name (and port form) of the host, one bucket probe, then the routes of that virtual host in order: where they are many,
those that the path can be for (policy/paths). Nothing depends on how many hosts the table has. Allocates nothing per request. Must not know: connections, cells, time.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from fastmesh._core.base.err cimport FM_ENOROUTE, FM_ESNAP, FM_OK
from fastmesh._core.base.regex cimport regex_free, regex_full, regex_new, regex_replace
from fastmesh._core.base.view cimport Slice, ascii_lower
from fastmesh._core.policy.paths cimport PathWalk, paths_begin, paths_next
from fastmesh._core.policy.router cimport ROUTE_PATH, ROUTE_TAKES, RouteMatch
from fastmesh._core.proto.msg cimport HF_DROP, MF_ABSOLUTE, MF_HTTPS, MSG_MAX_HEAD, MSG_MAX_HEADERS, Hdr, Msg
from fastmesh._core.shm.snapshot cimport (
    ACT_FORWARD, CF_IGNORE_CASE, CF_NOT, ON_AUTHORITY, ON_HEADER, ON_METHOD, ON_PORT, ON_QUERY, ON_SCHEME, OP_ANY, OP_EXACT,
    OP_PATH_PREFIX, OP_PREFIX, OP_PRESENT, OP_REGEX, OP_SUFFIX, SNAP_MAX_HOST, SNAP_MAX_LABELS, SNAP_NONE, Snap, SnapAction, SnapArr,
    SnapCond, SnapDest, SnapHost, SnapRoute, SnapStr, SnapTable, SnapVhost, host_hash_end, host_hash_step, snap_str)

cdef enum:
    PORT_DIGITS = 5
    NAME_CAP = 264                 # SNAP_MAX_HOST, a port, room to spare
    JOIN_CAP = MSG_MAX_HEAD + MSG_MAX_HEADERS   # all values of a head, and their commas

# The patterns of the generation that this process uses, by index in its snapshot, and those of the one that it is about to use.
# A worker has one thread: no lock.
cdef void **patterns = NULL
cdef uint32_t pattern_count = 0
cdef void **next_patterns = NULL
cdef uint32_t next_count = 0


cdef int router_prepare(const Snap *s) noexcept nogil:
    global next_patterns, next_count
    cdef const SnapStr *text = <const SnapStr *>(s.base + s.h.regexes.off)
    cdef uint32_t n = s.h.regexes.n
    cdef uint32_t i
    free_patterns(next_patterns, next_count)
    next_patterns = NULL
    next_count = 0
    if n == 0:
        return FM_OK
    next_patterns = <void **>calloc(n, sizeof(void *))
    if next_patterns == NULL:
        return FM_ESNAP
    next_count = n
    for i in range(n):
        next_patterns[i] = regex_new(s.base + text[i].off, text[i].n, NULL)
        if next_patterns[i] == NULL:
            return FM_ESNAP        # freed by the next call
    return FM_OK


cdef void router_commit() noexcept nogil:
    global patterns, pattern_count, next_patterns, next_count
    free_patterns(patterns, pattern_count)
    patterns = next_patterns
    pattern_count = next_count
    next_patterns = NULL
    next_count = 0


cdef int router_load(const Snap *s) noexcept nogil:
    cdef int rc = router_prepare(s)
    if rc == FM_OK:
        router_commit()
    return rc


cdef void router_forget() noexcept nogil:
    router_commit()                # what was prepared takes the place of what is in use,
    router_commit()                # and nothing the place of that


cdef void free_patterns(void **p, uint32_t n) noexcept nogil:
    cdef uint32_t i
    if p == NULL:
        return
    for i in range(n):
        regex_free(p[i])
    free(p)


cdef inline bint same_lower(const char *p, const char *q, uint32_t n) noexcept nogil:
    cdef uint32_t i = 0
    cdef uint64_t a, b
    # Each condition on a header asks this of every field with a name as long. What is the same mostly is so byte for byte, and what is not
    # differs mostly within its first eight: words first.
    while n - i >= 8:
        memcpy(&a, p + i, 8)
        memcpy(&b, q + i, 8)
        if a != b and (a ^ b) & <uint64_t>0xdfdfdfdfdfdfdfdf:
            return False           # in more than the bit that tells upper case from lower
        if a != b and not same_bytes(p + i, q + i, 8):
            return False
        i += 8
    return same_bytes(p + i, q + i, n - i)


cdef bint same_bytes(const char *p, const char *q, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if ascii_lower(<uint8_t>p[i]) != ascii_lower(<uint8_t>q[i]):
            return False
    return True


cdef inline bint same(const char *p, const char *q, uint32_t n, bint ignore_case) noexcept nogil:
    return same_lower(p, q, n) if ignore_case else memcmp(p, q, n) == 0


cdef bint value_matches(uint8_t op, bint ignore_case, uint32_t regex, Slice want, Slice have) noexcept nogil:
    if op == OP_EXACT:
        return have.n == want.n and (want.n == 0 or same(have.p, want.p, want.n, ignore_case))
    if op == OP_PREFIX:
        return have.n >= want.n and (want.n == 0 or same(have.p, want.p, want.n, ignore_case))
    if op == OP_SUFFIX:
        return have.n >= want.n and (want.n == 0 or same(have.p + (have.n - want.n), want.p, want.n, ignore_case))
    if op == OP_REGEX:
        # a pattern of a generation that was not loaded matches nothing
        return regex < pattern_count and regex_full(patterns[regex], have.p, have.n)
    return True                    # OP_ANY, OP_PRESENT: it is there


cdef bint router_value(uint8_t op, bint ignore_case, uint32_t regex, Slice want, Slice have) noexcept nogil:
    return value_matches(op, ignore_case, regex, want, have)


cdef int64_t router_rewrite(uint32_t regex, Slice path, Slice rewrite, char *to, uint32_t cap) noexcept nogil:
    if regex >= pattern_count:
        return -1
    return regex_replace(patterns[regex], path.p, <uint32_t>path.n, rewrite.p, <uint32_t>rewrite.n, to, cap)


cdef bint path_matches(const Snap *s, const SnapRoute *r, const Msg *m, uint32_t *prefix_n) noexcept nogil:
    cdef Slice want, have
    cdef uint8_t op = r.path_op
    have = m.path
    if op == OP_ANY:
        # a route without a path is the prefix "/"
        prefix_n[0] = 1 if have.n > 0 and have.p[0] == c'/' else 0
        return True
    want = snap_str(s, r.path)
    if op == OP_PREFIX or op == OP_PATH_PREFIX:
        if have.n < want.n or (want.n > 0 and not same(have.p, want.p, want.n, r.flags & CF_IGNORE_CASE)):
            return False
        if op == OP_PATH_PREFIX and have.n > want.n and have.p[want.n] != c'/':
            return False
        prefix_n[0] = want.n
        return True
    prefix_n[0] = have.n
    return value_matches(op, r.flags & CF_IGNORE_CASE, r.regex, want, have)


cdef inline bint is_header(const Hdr *h, uint8_t hid, Slice name) noexcept nogil:
    if h.flags & HF_DROP:
        return False
    if hid != 0:
        return h.id == hid
    return h.name_n == name.n and same_lower(h.name, name.p, name.n)


cdef bint joined_matches(const SnapCond *c, Slice name, Slice want, const Msg *m) noexcept nogil:
    """A field that occurs more than once: its values joined by commas are its value (RFC 9110 5.2)."""
    cdef char buf[JOIN_CAP]
    cdef Slice have
    cdef uint32_t i
    cdef uint32_t n = 0
    cdef bint first = True
    for i in range(m.nhdr):
        if not is_header(&m.hdr[i], c.hid, name):
            continue
        if n + m.hdr[i].value_n + 1 > JOIN_CAP:
            return False           # longer than any head: cannot be
        if not first:
            buf[n] = c','
            n += 1
        first = False
        memcpy(buf + n, m.hdr[i].value, m.hdr[i].value_n)
        n += m.hdr[i].value_n
    have.p = buf
    have.n = n
    return value_matches(c.op, c.flags & CF_IGNORE_CASE, c.regex, want, have)


cdef bint header_matches(const Snap *s, const SnapCond *c, const Msg *m) noexcept nogil:
    cdef Slice name, want, have
    cdef const Hdr *found = NULL
    cdef uint32_t i
    name = snap_str(s, c.name)
    want = snap_str(s, c.value)
    for i in range(m.nhdr):
        if is_header(&m.hdr[i], c.hid, name):
            if c.op == OP_PRESENT:
                return True
            if found != NULL:
                return joined_matches(c, name, want, m)
            found = &m.hdr[i]
    if found == NULL:
        # withoutHeaders: a missing field counts as an empty value (Istio sets treat_missing_header_as_empty)
        if c.op == OP_PRESENT or not c.flags & CF_NOT:
            return False
        have.p = b""
        have.n = 0
    else:
        have.p = found.value
        have.n = found.value_n
    return value_matches(c.op, c.flags & CF_IGNORE_CASE, c.regex, want, have)


cdef bint query_matches(const Snap *s, const SnapCond *c, Slice query) noexcept nogil:
    """The first parameter of this name decides; names and values are compared as they were sent (Envoy does not decode them either)."""
    cdef Slice name, have
    cdef const char *p = query.p
    cdef const char *end
    cdef const char *eq
    cdef const char *stop = query.p + query.n
    name = snap_str(s, c.name)
    if query.n == 0:
        return False
    while p <= stop:
        end = p
        eq = NULL
        while end < stop and end[0] != c'&':
            if eq == NULL and end[0] == c'=':
                eq = end
            end += 1
        have.p = eq + 1 if eq != NULL else end
        have.n = <uint32_t>(end - have.p)
        if <uint32_t>((eq if eq != NULL else end) - p) == name.n and memcmp(p, name.p, name.n) == 0:
            return value_matches(c.op, c.flags & CF_IGNORE_CASE, c.regex, snap_str(s, c.value), have)
        p = end + 1
    return False


cdef bint cond_matches(const Snap *s, const SnapCond *c, const Msg *m, bint tls, uint32_t port) noexcept nogil:
    cdef Slice have
    cdef bint https
    if c.on == ON_HEADER:
        return header_matches(s, c, m)
    if c.on == ON_QUERY:
        return query_matches(s, c, m.query)
    if c.on == ON_PORT:
        return c.number == port
    if c.on == ON_METHOD:
        have = m.method_name
    elif c.on == ON_AUTHORITY:
        have = m.host
    elif c.on == ON_SCHEME:
        # what an absolute target says; else how the request came
        https = (m.flags & MF_HTTPS) != 0 if m.flags & MF_ABSOLUTE else tls
        have.p = b"https"
        have.n = 5 if https else 4
    else:
        return False
    return value_matches(c.op, c.flags & CF_IGNORE_CASE, c.regex, snap_str(s, c.value), have)


cdef inline uint32_t first_unmet(const Snap *s, SnapArr conds, const Msg *m, bint tls, uint32_t port) noexcept nogil:
    """The index of the first condition that does not hold; conds.n when all do."""
    cdef const SnapCond *c = <const SnapCond *>(s.base + conds.off)
    cdef uint32_t i
    for i in range(conds.n):
        if cond_matches(s, &c[i], m, tls, port) == ((c[i].flags & CF_NOT) != 0):
            return i
    return conds.n


cdef inline uint32_t probe(const Snap *s, const SnapTable *t, uint64_t hash, const char *p, uint32_t n, uint32_t wildcard) noexcept nogil:
    """The virtual host of a name whose hash is known, or SNAP_NONE. snap_check saw to it that there is an empty bucket."""
    cdef const SnapHost *bucket = <const SnapHost *>(s.base + t.hosts_off)
    cdef uint32_t mask = t.buckets - 1
    cdef uint32_t i = <uint32_t>hash & mask
    while bucket[i].hash != 0:
        if bucket[i].hash == hash and bucket[i].host.n == n and bucket[i].wildcard == wildcard \
                and memcmp(s.base + bucket[i].host.off, p, n) == 0:
            return bucket[i].vhost
        i = (i + 1) & mask
    return SNAP_NONE


cdef uint32_t hash_name(const char *p, uint32_t n, uint32_t max_dots, uint32_t *dot, uint64_t *hash) noexcept nogil:
    """Hash p[0:n] from its end; for the last max_dots dots, where they stand and the hash of what begins there. hash[max_dots] is that
    of the whole. How many dots were found."""
    cdef uint64_t h = <uint64_t>0xcbf29ce484222325
    cdef uint32_t dots = 0
    while n > 0:
        n -= 1
        h = host_hash_step(h, <uint8_t>p[n])
        if p[n] == c'.' and dots < max_dots:
            dot[dots] = n
            hash[dots] = host_hash_end(h)
            dots += 1
    hash[max_dots] = host_hash_end(h)
    return dots


cdef uint32_t host_vhost(const Snap *s, const SnapTable *t, Slice host) noexcept nogil:
    """The virtual host of an authority, or SNAP_NONE."""
    cdef char name[NAME_CAP]       # the name in lower case, without a trailing dot, then the port as sent
    cdef uint32_t dot[SNAP_MAX_LABELS + 1]
    cdef uint64_t bare[SNAP_MAX_LABELS + 1]
    cdef uint64_t full[SNAP_MAX_LABELS + 1]
    cdef uint32_t n = host.n
    cdef uint32_t port_n = 0
    cdef uint32_t max_dots = t.max_labels
    cdef uint32_t dots, i, found
    # the port: digits behind the last colon
    i = n
    while i > 0 and n - i < PORT_DIGITS and 48 <= host.p[i - 1] <= 57:
        i -= 1
    if 0 < i < n and host.p[i - 1] == c':':
        port_n = n - (i - 1)
        n = i - 1
    elif i == n and n > 0 and host.p[n - 1] == c':':
        n -= 1                     # "name:" is an empty port: as if there were none
    if n > 0 and host.p[n - 1] == c'.':
        n -= 1
    if n == 0 or n > SNAP_MAX_HOST:
        return t.any_vhost
    for i in range(n):
        name[i] = <char>ascii_lower(<uint8_t>host.p[i])
    memcpy(name + n, host.p + (host.n - port_n), port_n)
    if port_n != 0:
        hash_name(name, n + port_n, max_dots, dot, full)
        found = probe(s, t, full[max_dots], name, n + port_n, 0)
        if found != SNAP_NONE:
            return found
    dots = hash_name(name, n, max_dots, dot, bare)
    found = probe(s, t, bare[max_dots], name, n, 0)
    if found != SNAP_NONE:
        return found
    # longest suffix first: dots were found from the end. A port has no dot, so both hashings found the same ones.
    while dots > 0:
        dots -= 1
        i = dot[dots]
        if i == 0:
            continue               # "*.a" needs something before the dot
        if port_n != 0:
            found = probe(s, t, full[dots], name + i, n + port_n - i, 1)
            if found != SNAP_NONE:
                return found
        found = probe(s, t, bare[dots], name + i, n - i, 1)
        if found != SNAP_NONE:
            return found
    return t.any_vhost


cdef inline const SnapDest *weighted_dest(const Snap *s, const SnapAction *a, uint32_t rnd) noexcept nogil:
    cdef const SnapDest *d = <const SnapDest *>(s.base + a.dests.off)
    cdef uint32_t at = <uint32_t>((<uint64_t>rnd * a.total_weight) >> 32)
    while d.weight <= at:          # ends: the last weight is the total
        d += 1
    return d


cdef inline bint takes(const Snap *s, const SnapRoute *r, const Msg *m, bint tls, uint32_t port, uint32_t *prefix_n) noexcept nogil:
    return path_matches(s, r, m, prefix_n) and (r.conds.n == 0 or first_unmet(s, r.conds, m, tls, port) == r.conds.n)


cdef const SnapRoute *first_route(const Snap *s, const SnapVhost *v, const Msg *m, bint tls, uint32_t port, uint32_t *prefix_n) noexcept nogil:
    cdef const SnapRoute *r = <const SnapRoute *>(s.base + v.routes.off)
    cdef PathWalk walk
    cdef uint32_t i
    if v.paths.n == 0:
        for i in range(v.routes.n):
            if takes(s, r + i, m, tls, port, prefix_n):
                return r + i
        return NULL
    paths_begin(&walk, s, v, m.path)
    while True:
        i = paths_next(&walk)
        if i == SNAP_NONE:
            return NULL
        if takes(s, r + i, m, tls, port, prefix_n):
            return r + i


cdef uint32_t router_name(const Snap *s, uint32_t table, Slice host) noexcept nogil:
    if table >= s.h.tables.n:
        return SNAP_NONE
    return host_vhost(s, <const SnapTable *>(s.base + s.h.tables.off) + table, host)


cdef const SnapDest *router_dest(const Snap *s, const SnapAction *a, uint32_t rnd) noexcept nogil:
    return weighted_dest(s, a, rnd)


cdef const SnapVhost *router_vhost(const Snap *s, uint32_t table, const Msg *m) noexcept nogil:
    cdef uint32_t vhost = router_name(s, table, m.host)
    if vhost == SNAP_NONE:
        return NULL
    return <const SnapVhost *>(s.base + s.h.vhosts.off) + vhost


cdef int router_obstacle(const Snap *s, const SnapRoute *r, const Msg *m, bint tls, uint32_t port) noexcept nogil:
    cdef uint32_t prefix_n, i
    if not path_matches(s, r, m, &prefix_n):
        return ROUTE_PATH
    i = first_unmet(s, r.conds, m, tls, port)
    return ROUTE_TAKES if i == r.conds.n else <int>i


cdef int router_match(const Snap *s, uint32_t table, const Msg *m, bint tls, uint32_t port, uint32_t rnd, RouteMatch *out) noexcept nogil:
    cdef const SnapVhost *v = router_vhost(s, table, m)
    cdef const SnapRoute *r
    if v == NULL:
        return FM_ENOROUTE
    r = first_route(s, v, m, tls, port, &out.prefix_n)
    if r == NULL:
        return FM_ENOROUTE
    out.vhost = v
    out.route = r
    out.action = <const SnapAction *>(s.base + s.h.actions.off) + r.action
    out.dest = weighted_dest(s, out.action, rnd) if out.action.kind == ACT_FORWARD else NULL
    return FM_OK
