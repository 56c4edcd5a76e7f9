"""Huffman coding of HPACK strings (L1), RFC 7541 5.2 and appendix B."""
from libc.stdint cimport uint32_t

cdef uint32_t huffman_size(const char *p, uint32_t n) noexcept nogil
"""Bytes of p[0:n] when coded."""
cdef char *huffman_encode(const char *p, uint32_t n, char *out) noexcept nogil
"""Writes huffman_size bytes; the byte behind them."""
cdef int huffman_decode(const char *p, uint32_t n, char *out, uint32_t cap) noexcept nogil
"""Bytes written; FM_EHPACK (EOS inside, more than 7 bits of padding or padding that is not EOS's beginning), FM_EHEAD: more than cap.
out NULL: only counts."""
