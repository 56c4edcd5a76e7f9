"""HPACK (L1), RFC 7541: the decoder. The encoder is in hpack_enc, tables and Huffman code in files of their own.

Memory: a dynamic table holds what its size limit allows (4096 bytes) in one Block that grows with use, so a connection that was
never used holds none. Whatever comes in, nothing else is allocated.
"""
from libc.stdint cimport uint32_t
from fastmesh._core.base.buf cimport BufPool
from fastmesh._core.base.view cimport View
from fastmesh._core.proto.hpack_table cimport HpackTable
from fastmesh._core.proto.msg cimport Hdr

cdef enum:
    HPACK_STATIC = 61
    HPACK_STRING_MOST = 65536    # of one string; larger is an error of the connection

cdef struct HpackArena:          # where the decoder puts strings that it has to make or copy; lives as long as the head that is decoded
    char *begin
    char *p
    char *end                    # at least 1.6 bytes for each byte of the block: any field fits into an empty arena
    uint32_t list_n              # RFC 9113 6.5.2: sum of name + value + 32 over all fields so far
    uint32_t list_most           # above: `over` is set, and fields are decoded for the tables' sake only
    uint32_t over

cdef struct HpackDec:
    HpackTable t
    uint32_t limit               # what our SETTINGS allow: a size update above it is an error
    uint32_t updates             # size updates at the beginning of this block
    uint32_t fields              # representations of a field in this block

cdef void hpack_dec_init(HpackDec *d, uint32_t limit) noexcept nogil
cdef void hpack_dec_end(HpackDec *d, BufPool *bufs) noexcept nogil
cdef void hpack_block_begin(HpackDec *d) noexcept nogil
"""A new header block: size updates are allowed again (RFC 7541 4.2: at the beginning of a block only)."""

cdef int hpack_next(HpackDec *d, View *v, BufPool *bufs, HpackArena *a, Hdr *out) noexcept nogil
"""The next field of a complete header block in *v: 1, 0 at its end, FM_EHPACK (error of the connection: COMPRESSION_ERROR) or FM_ENOMEM.

out: name and value borrowed from *v (raw literals), static memory or the arena; id is H_*, HP_* of a pseudo field, or H_NONE; HF_NEVER.
With a.over set out is not to be used. Characters are not judged here (proto/h2_head)."""
