"""Whether a client repeats by itself (L2). See repeat.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from fastmesh._core.proto.msg cimport H_X_REQUEST_ID, Hdr, Msg, msg_find, msg_find_name
from fastmesh._core.shm.hashtab cimport mix64

cdef enum:
    SEED = 0x7265706561740000    # no key is that of a call tree (policy/giveup) but by chance


cdef uint64_t words(uint64_t h, const char *p, uint32_t n) noexcept nogil:
    # its length first: the end of one value is not the beginning of the next
    cdef uint64_t word
    h = mix64(h ^ n)
    while n >= 8:
        memcpy(&word, p, 8)
        h = (h ^ word) * <uint64_t>0x9e3779b97f4a7c15
        h ^= h >> 32
        p += 8
        n -= 8
    word = 0
    memcpy(&word, p, n)
    return mix64(h ^ word)


cdef uint64_t repeat_key(const Msg *m) noexcept nogil:
    cdef const Hdr *h = msg_find(m, H_X_REQUEST_ID)
    cdef uint64_t key
    if h == NULL:
        return 0
    key = words(SEED, h.value, h.value_n)
    key = words(key, m.method_name.p, m.method_name.n)
    key = words(key, m.host.p, m.host.n)
    key = words(key, m.target.p, m.target.n)
    return key if key else 1


cdef bint repeat_said(const Msg *m) noexcept nogil:
    cdef const Hdr *h = msg_find_name(m, b"grpc-previous-rpc-attempts", 26)
    cdef uint32_t i
    if h == NULL or h.value_n == 0:
        return False
    for i in range(h.value_n):
        if not 48 <= h.value[i] <= 57:
            return False
    return h.value_n > 1 or h.value[0] != 48
