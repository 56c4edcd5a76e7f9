"""BORDER (L1): class Sections, a snapshot while it grows: byte vectors, one a section, and the strings that they share.

It knows the layout of every element (shm/snapshot.pxd) as far as finish() must move the offsets in it; what an element says is Packer's
(shm/pack.pyx) business.
"""
from libc.stdint cimport uint32_t
from fastmesh._core.shm.snapshot cimport SnapArr, SnapStr

cdef enum:  # sections, in file order
    V_LISTENERS = 0
    V_TABLES
    V_HOSTS
    V_VHOSTS
    V_ROUTES
    V_CONDS
    V_ACTIONS
    V_DESTS
    V_HDROPS
    V_CLUSTERS
    V_ENDPOINTS
    V_TLS
    V_STRS
    V_U32S
    V_REGEXES
    V_MIRRORS
    V_CORS
    V_ORIGINS
    V_LIMITS
    V_LEVELS
    V_PATHS
    V_AUTHZ
    V_AUTHZ_DIMS
    V_AUTHZ_KEYS
    V_BLOB
    V_N

cdef struct Vec:
    char *p
    size_t n
    size_t cap

cdef class Sections:
    """Collects the elements of one generation; finish() gives its bytes. Offsets are relative to their section until then."""
    cdef Vec v[V_N]
    cdef dict strings              # bytes -> (offset in the blob, length)
    cdef dict patterns             # bytes -> index in regexes
    cdef bint done
    cdef void *grow(self, int section, size_t bytes) except NULL
    cdef uint32_t count(self, int section, size_t size)
    cdef SnapStr text(self, value) except *
    cdef SnapArr run(self, pair, uint32_t size) except *
    cdef SnapArr str_list(self, values) except *
    cdef SnapArr u32_list(self, values) except *
    cdef SnapArr section(self, int which, const uint32_t *base, size_t size)
    cdef void relocate(self, const uint32_t *base) noexcept
