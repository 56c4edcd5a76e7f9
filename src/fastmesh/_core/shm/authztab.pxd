"""Authorization policies of a snapshot (L1): sections authz, authz_dims and authz_keys. As shm/snapshot.pxd; judged by policy/authz."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastmesh._core.shm.snapshot cimport SnapArr, SnapStr

cdef enum:
    SNAP_MAX_TERMS = 16384       # alternatives of all authorization rules of a listener: a request has a bit for each on the stack
    SNAP_MAX_TEXT = 65536        # bytes of one value of an authorization rule: as the longest string of a config

cdef enum:  # SnapAuthzDim.on: what of a request is looked at
    AT_PRINCIPAL = 0             # SPIFFE ID of the peer, without the scheme
    AT_NAMESPACE                 # ... its namespace
    AT_ACCOUNT                   # ... its namespace/service account
    AT_SOURCE_IP                 # of the connection
    AT_REMOTE_IP                 # of the client, as far as who says so is believed
    AT_DEST_IP
    AT_DEST_PORT
    AT_HOST                      # lower case; this and what follows only HTTP has
    AT_METHOD
    AT_PATH                      # decoded (proto/pathnorm)
    AT_HEADER
    AT_N                         # must be last
    AT_HTTP = AT_HOST

cdef enum:  # SnapAuthzKey.op
    AO_EXACT = 0
    AO_PREFIX                    # an empty one: the value is present
    AO_SUFFIX
    AO_NET                       # value: family, bits, then the address with the rest of its bits 0
    AO_TEMPLATE                  # a path with {*} and {**}
    AO_GLOB                      # * stands for any bytes

cdef struct SnapAuthzKey:        # 32 bytes: a bucket, or one of SnapAuthzDim.slow: what a value must be like, and whose wish that is
    uint64_t hash                # authz_hash; 0 = empty
    SnapStr value
    SnapArr terms                # uint32: terms, ascending; or, with `dense`, a bit for each term
    uint8_t op                   # AO_*
    uint8_t dense
    uint16_t reserved0
    uint32_t reserved1

cdef struct SnapAuthzDim:        # 64 bytes: one attribute; each term asks at most once for it
    uint8_t on                   # AT_*
    uint8_t negate               # the terms whose key fits do not hold; else only they and those of `base` do
    uint16_t reserved
    uint32_t longest             # bytes of the longest exact key: what is longer is not hashed
    SnapStr name                 # AT_HEADER
    SnapArr base                 # a bit for each term: it does not ask for this; empty with `negate`
    SnapArr buckets              # SnapAuthzKey, a power of two
    SnapArr prefixes             # uint32: lengths that there are, ascending
    SnapArr suffixes
    SnapArr nets                 # uint32: family << 8 | bits
    SnapArr slow                 # SnapAuthzKey: templates and globs, one after the other

cdef enum:  # groups of terms, in this order; each begins with a word of its own
    AG_AUDIT = 0
    AG_DENY
    AG_ALLOW
    AG_DRY_DENY                  # of policies that are only tried
    AG_DRY_ALLOW
    AG_N

cdef enum:  # SnapAuthz.flags
    AZ_ALLOW = 1                 # there is an ALLOW policy, if only one without rules: what none allows is denied
    AZ_DRY_ALLOW = 2             # ... that is only tried
    AZ_TELL = 4                  # a denial names the rule to the client too
    AZ_PATH = 8                  # paths are asked for: they are normalised first
    AZ_DEST_IP = 16

cdef struct SnapAuthz:           # 64 bytes: the authorization policies of a listener. A term is one way of a rule to match: a source and an operation
    SnapArr dims                 # SnapAuthzDim
    SnapArr names                # SnapStr: of the rule of each term; empty: a place that no term has
    SnapArr http                 # a bit for each term: its rule asks for what only HTTP has, so that it allows no connection without
    uint32_t words               # of 32 bits: all sets of terms are so long
    uint32_t flags               # AZ_*
    uint32_t port                # that the policies speak of; 0: the listener's
    uint32_t upto[5]             # AG_N: where each group ends, in words
    SnapArr live                 # a bit for each term: the other places have none

cdef enum:
    AUTHZ_HASH = 0x2f0b4c47      # what the hash of an authorization rule's value begins with

cdef inline uint64_t authz_hash_step(uint64_t h, uint8_t c) noexcept nogil:
    """Prefixes are hashed from their first byte on, suffixes from their last, so that one pass yields the hash of each."""
    return (h ^ c) * <uint64_t>0x100000001b3

cdef inline uint64_t authz_hash_end(uint64_t h, int op) noexcept nogil:
    """Never 0 (an empty bucket)."""
    h ^= <uint64_t>(op + 1) * <uint64_t>0x9e3779b97f4a7c15
    h ^= h >> 29
    return h if h != 0 else 1

cdef inline uint64_t authz_hash(const char *p, uint32_t n, int op) noexcept nogil:
    """The hash of SnapAuthzKey."""
    cdef uint64_t h = AUTHZ_HASH
    cdef uint32_t i
    for i in range(n):
        h = authz_hash_step(h, <uint8_t>p[n - 1 - i if op == AO_SUFFIX else i])
    return authz_hash_end(h, op)
