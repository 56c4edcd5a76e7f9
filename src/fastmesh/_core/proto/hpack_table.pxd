"""HPACK's dynamic table (L1), RFC 7541 2.3.2 and 4: entries in one Block, newest last; looked up by index in constant time."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy
from fastmesh._core.base.buf cimport Block, BufPool, block_data

cdef enum:
    HPACK_TABLE_MOST = 4096      # bytes (RFC 7541 4.1) of either table: what we announce, and the most that we use of a peer's offer
    HPACK_ENTRY = 32             # overhead that the RFC counts for an entry
    HPACK_ENTRIES = 128          # HPACK_TABLE_MOST / HPACK_ENTRY

cdef struct HpackTable:          # owned by its decoder or encoder
    Block *bytes                 # entries: bookkeeping, name, value; NULL: nothing in it yet
    uint32_t size                # RFC 7541 4.1: sum of name + value + 32
    uint32_t max                 # evict above
    uint32_t n                   # entries
    uint32_t newest              # counts insertions; entry 1 is in slot newest % HPACK_ENTRIES, older ones before it
    uint16_t at[128]             # slot -> offset in bytes

cdef struct HpackMark:           # before the bytes of an entry, unaligned
    uint16_t name_n
    uint16_t value_n
    uint8_t id
    uint8_t reserved[3]

cdef struct HpackEntry:          # a view: borrowed until the table changes
    const char *name
    const char *value
    uint16_t name_n
    uint16_t value_n
    uint8_t id                   # H_*, HP_*

cdef void table_end(HpackTable *t, BufPool *bufs) noexcept nogil
cdef inline bint table_get(const HpackTable *t, uint32_t i, HpackEntry *e) noexcept nogil:
    """Entry i, 0 the newest; False: there is none."""
    cdef HpackMark m
    cdef const char *p
    if i >= t.n:
        return False
    p = block_data(t.bytes) + t.at[(t.newest - i) & (HPACK_ENTRIES - 1)]
    memcpy(&m, p, sizeof(HpackMark))
    e.name = p + sizeof(HpackMark)
    e.name_n = m.name_n
    e.value = e.name + m.name_n
    e.value_n = m.value_n
    e.id = m.id
    return True

cdef void table_limit(HpackTable *t, uint32_t most) noexcept nogil
"""A new maximum: evicts."""
cdef int table_add(HpackTable *t, BufPool *bufs, const char *name, uint32_t name_n, const char *value, uint32_t value_n, int hid) noexcept nogil
"""1: added, 0: larger than the table, which is empty now (RFC 7541 4.4), or FM_ENOMEM: what was
in its way is evicted. The name may lie in the table."""
