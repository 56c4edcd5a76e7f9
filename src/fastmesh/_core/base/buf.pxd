"""Byte blocks (L0): borrowed while data is in flight, given back at once. An idle connection holds none."""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    BUF_CLASSES = 5            # 1, 4, 16, 64, 256 KiB
    BUF_KEEP = 64              # free blocks kept of the two smallest classes each; 8, 4 and 2 of the larger ones

cdef struct Block:
    Block *next
    uint32_t cap
    uint32_t start             # first unread byte
    uint32_t end               # behind the last byte
    uint32_t cls

cdef struct BufPool:
    uint64_t held              # bytes in blocks that are in use
    uint64_t cap               # most bytes held at once: above it new work is refused
    uint64_t kept              # bytes in free blocks
    uint32_t live
    Block *free[5]
    uint32_t nfree[5]

cdef inline char *block_data(Block *b) noexcept nogil:
    return <char *>(b + 1)

cdef inline uint32_t block_len(const Block *b) noexcept nogil:
    return b.end - b.start

cdef inline uint32_t block_room(const Block *b) noexcept nogil:
    return b.cap - b.end

cdef void buf_init(BufPool *p, uint64_t cap) noexcept nogil
cdef Block *block_new(BufPool *p, uint32_t need) noexcept nogil
"""An empty block with room for at least min(need, 256 KiB) bytes; NULL at the cap."""
cdef void block_free(BufPool *p, Block *b) noexcept nogil
cdef void block_free_all(BufPool *p, Block *b) noexcept nogil
cdef Block *block_grow(BufPool *p, Block *b) noexcept nogil
"""The bytes of b in a block of the next class (b is freed), or NULL: b is unchanged."""
cdef void buf_end(BufPool *p) noexcept nogil
