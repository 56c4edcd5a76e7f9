"""Huffman coding of HPACK strings (L1). See huffman.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastmesh._core.base.err cimport FM_EHEAD, FM_EHPACK
from fastmesh._core.proto.gen_hpack cimport fm_huff_code, fm_huff_step, fm_huff_step_t


cdef uint32_t huffman_size(const char *p, uint32_t n) noexcept nogil:
    cdef uint64_t bits = 0
    cdef uint32_t i
    for i in range(n):
        bits += fm_huff_code[<uint8_t>p[i]].bits
    return <uint32_t>((bits + 7) >> 3)


cdef char *huffman_encode(const char *p, uint32_t n, char *out) noexcept nogil:
    cdef uint64_t acc = 0          # bits not yet written, right aligned
    cdef uint32_t have = 0
    cdef uint32_t i
    for i in range(n):
        acc = acc << fm_huff_code[<uint8_t>p[i]].bits | fm_huff_code[<uint8_t>p[i]].code
        have += fm_huff_code[<uint8_t>p[i]].bits
        while have >= 8:
            have -= 8
            out[0] = <char>(acc >> have)
            out += 1
    if have:
        out[0] = <char>(acc << (8 - have) | 0xff >> have)
        out += 1
    return out


cdef int huffman_decode(const char *p, uint32_t n, char *out, uint32_t cap) noexcept nogil:
    cdef const fm_huff_step_t *s
    cdef uint32_t state = 0
    cdef uint32_t made = 0
    cdef uint32_t i
    cdef uint8_t flags = 1
    for i in range(n):
        s = &fm_huff_step[state][<uint8_t>p[i] >> 4]
        if s.flags & 2:
            return FM_EHPACK
        if s.flags & 4:
            if made == cap:
                return FM_EHEAD
            if out != NULL:
                out[made] = <char>s.symbol
            made += 1
        s = &fm_huff_step[s.next][<uint8_t>p[i] & 15]
        if s.flags & 2:
            return FM_EHPACK
        if s.flags & 4:
            if made == cap:
                return FM_EHEAD
            if out != NULL:
                out[made] = <char>s.symbol
            made += 1
        state = s.next
        flags = s.flags
    return <int>made if flags & 1 else FM_EHPACK
