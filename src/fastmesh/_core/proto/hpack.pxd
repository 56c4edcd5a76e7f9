"""HPACK (L1), RFC 7541: decoder and encoder of one direction each; static and dynamic tables, Huffman both ways.

Memory: a dynamic table holds what its size limit allows (HPACK_TABLE_MOST) in one Block that grows with use, so a connection that was
never used holds none. Whatever comes in, nothing else is allocated.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from fastmesh._core.base.buf cimport Block, BufPool
from fastmesh._core.base.view cimport View
from fastmesh._core.proto.msg cimport Hdr

cdef enum:
    HPACK_TABLE_MOST = 4096      # bytes (RFC 7541 4.1) of either table: what we announce, and the most that we use of a peer's offer
    HPACK_ENTRY = 32             # overhead that the RFC counts for an entry
    HPACK_ENTRIES = 128          # HPACK_TABLE_MOST / HPACK_ENTRY
    HPACK_STATIC = 61
    HPACK_STRING_MOST = 65536    # of one string; larger is an error of the connection

cdef struct HpackTable:          # owned by its decoder or encoder
    Block *bytes                 # entries' names and values; NULL: nothing in it yet
    uint32_t size                # RFC 7541 4.1: sum of name + value + 32
    uint32_t max                 # evict above
    uint32_t n                   # entries
    uint32_t newest              # slot of entry 1; older ones follow downwards, modulo HPACK_ENTRIES
    uint16_t at[128]             # slot -> offset in bytes

cdef struct HpackArena:          # where the decoder puts strings that it has to make or copy; lives as long as the head that is decoded
    char *p
    char *end
    uint32_t list_n              # RFC 9113 6.5.2: sum of name + value + 32 over all fields so far
    uint32_t list_most           # above: `over` is set, and fields are decoded for the tables' sake only
    uint32_t over

cdef struct HpackDec:
    HpackTable t
    uint32_t limit               # what our SETTINGS allow: a size update above it is an error
    uint32_t updates             # size updates at the beginning of this block
    uint32_t fields              # representations of a field in this block

cdef struct HpackEnc:
    HpackTable t
    uint32_t pending_min         # smallest and last table size to announce at the next block; 0xffffffff: none
    uint32_t pending
    uint8_t huffman              # 1: strings that get shorter by it are Huffman-coded
    uint8_t reserved[3]
    uint16_t pair[128]           # lossy index: hash of name and value -> entry
    uint16_t name[128]           # lossy index: hash of name -> entry
    uint16_t seen[256]           # lossy: fields that came once; one that comes again is worth an entry

cdef void hpack_dec_init(HpackDec *d, uint32_t limit) noexcept nogil
cdef void hpack_dec_end(HpackDec *d, BufPool *bufs) noexcept nogil
cdef void hpack_enc_init(HpackEnc *e, bint huffman) noexcept nogil
cdef void hpack_enc_end(HpackEnc *e, BufPool *bufs) noexcept nogil

cdef void hpack_block_begin(HpackDec *d) noexcept nogil
"""A new header block: size updates are allowed again (RFC 7541 4.2: at the beginning of a block only)."""

cdef int hpack_next(HpackDec *d, View *v, BufPool *bufs, HpackArena *a, Hdr *out) noexcept nogil
"""The next field of a complete header block in *v: 1, 0 at its end, FM_EHPACK (error of the connection: COMPRESSION_ERROR) or FM_ENOMEM.

out: name and value borrowed from *v (raw literals), static memory or the arena; id is H_*, HP_* of a pseudo field, or H_NONE; HF_NEVER.
With a.over set out is not to be used. Characters are not judged here (proto/h2_head)."""

cdef void hpack_enc_limit(HpackEnc *e, uint32_t peer_max) noexcept nogil
"""The peer's SETTINGS_HEADER_TABLE_SIZE: the table shrinks at once, the update is announced at the next block."""

cdef char *hpack_enc_begin(HpackEnc *e, char *p, const char *end) noexcept nogil
"""Size updates that are due. The byte behind what was written, or NULL when it does not fit (12 bytes always do)."""

cdef char *hpack_enc_field(HpackEnc *e, BufPool *bufs, char *p, const char *end, const char *name, uint32_t name_n, const char *value,
                           uint32_t value_n, int hid, uint32_t flags) noexcept nogil
"""One field; the name is lower-cased. What was seen before gets an entry; authorization, proxy-authorization, set-cookie and cookies
below 20 bytes, and whatever has HF_NEVER, go as never-indexed literals. hid may be H_NONE. The byte behind it, or NULL when it does not fit: the encoder
is then unchanged (name_n + value_n + 12 bytes always suffice)."""
