"""HPACK (L1), RFC 7541: the encoder."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from fastmesh._core.base.buf cimport BufPool
from fastmesh._core.proto.hpack_table cimport HpackTable

cdef struct HpackEnc:
    HpackTable t
    uint32_t pending_min         # smallest and last table size to announce at the next block; 0xffffffff: none
    uint32_t pending
    uint8_t huffman              # 1: strings that get shorter by it are Huffman-coded
    uint8_t reserved[3]
    uint16_t pair[128]           # lossy index: hash of name and value -> entry, 32 sets of 4: fields that share a set do not push each other out
    uint8_t tag[128]             # of pair: more bits of the hash
    uint16_t name[128]           # lossy index: hash of name -> entry
    uint16_t seen[256]           # lossy: fields that came once, 64 sets of 4, newest first; one that comes again is worth an entry

cdef void hpack_enc_init(HpackEnc *e, bint huffman) noexcept nogil
cdef void hpack_enc_end(HpackEnc *e, BufPool *bufs) noexcept nogil

cdef void hpack_enc_limit(HpackEnc *e, uint32_t peer_max) noexcept nogil
"""The peer's SETTINGS_HEADER_TABLE_SIZE: the table shrinks at once, the update is announced at the next block."""

cdef char *hpack_enc_begin(HpackEnc *e, char *p, const char *end) noexcept nogil
"""Size updates that are due. The byte behind what was written, or NULL when it does not fit (12 bytes always do)."""

cdef char *hpack_enc_field(HpackEnc *e, BufPool *bufs, char *p, const char *end, const char *name, uint32_t name_n, const char *value,
                           uint32_t value_n, int hid, uint32_t flags) noexcept nogil
"""One field; the name is lower-cased. What was seen before gets an entry; authorization, proxy-authorization, set-cookie and cookies
below 20 bytes, and whatever has HF_NEVER, go as never-indexed literals. hid: H_*, HP_* or H_NONE. The byte behind it, or NULL when it does
not fit: the encoder is then unchanged (name_n + value_n + 12 bytes always suffice)."""
