"""Carries HTTP/1 heads over an HTTP/2 link in memory: one encoder, one decoder. Blocks and values end where their memory does."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastmesh._core.base.buf cimport BufPool, buf_end, buf_init
from fastmesh._core.base.pool cimport Pool, pool_end, pool_init
from fastmesh._core.proto.h1_head cimport h1_request_head, h1_response_head
from fastmesh._core.proto.h2_case cimport H2_CASE_MOST, h2_case_write
from fastmesh._core.proto.h2_head cimport H2_REQUEST, H2_RESPONSE, h2_head_decode, h2_head_encode, h2_head_size
from fastmesh._core.proto.h2_stream cimport H2, H2_ARENA, H2Limits, H2N_N, H2Ops, H2Stream, h2_end, h2_init
from fastmesh._core.proto.hygiene cimport hygiene_request, hygiene_response
from fastmesh._core.proto.msg cimport HF_DROP, MF_RESPONSE, Msg, hdr_id, msg_keep, msg_kept_size, msg_load, msg_reset

MOST = H2_CASE_MOST
cdef H2Ops NO_OPS
memset(&NO_OPS, 0, sizeof(NO_OPS))


cdef dict as_dict(const Msg *m):
    return {
        "minor": m.minor, "status": m.status, "method": m.method_name.p[:m.method_name.n] if m.method_name.n else b"",
        "headers": [(m.hdr[i].name[:m.hdr[i].name_n], m.hdr[i].value[:m.hdr[i].value_n] if m.hdr[i].value_n else b"", m.hdr[i].id)
                    for i in range(m.nhdr) if not m.hdr[i].flags & HF_DROP],
    }


cdef int parse(bytes head, bint response, Msg *m) except -1:
    """As a proxy has it before it sends it on."""
    cdef int rc
    if response:
        rc = h1_response_head(head, <uint32_t>len(head), 0, m)
        if rc > 0:
            rc = hygiene_response(m, False)
    else:
        rc = h1_request_head(head, <uint32_t>len(head), 0, m)
        if rc > 0:
            rc = hygiene_request(m, False)
    if rc < 0:
        raise ValueError(f"not a head: {rc}")
    return 0


def value_of(names: list[bytes], minor: int = 1, response: bool = False, most: int = H2_CASE_MOST) -> bytes:
    """What h2_case_write makes of fields with these names."""
    cdef Msg m
    cdef char *out = <char *>malloc(most)
    cdef uint32_t n, i
    msg_reset(&m, MF_RESPONSE if response else 0)
    m.minor = minor
    m.nhdr = <uint32_t>len(names)
    for i, name in enumerate(names):  # the list keeps them alive
        m.hdr[i].name = <bytes>name
        m.hdr[i].name_n = len(name)
        m.hdr[i].value = b"v"
        m.hdr[i].value_n = 1
        m.hdr[i].id = hdr_id(m.hdr[i].name, m.hdr[i].name_n)
        m.hdr[i].flags = 0
    n = h2_case_write(&m, out, most)
    made = out[:n]
    free(out)
    return made


cdef class Link:
    """Both ends of a connection; `sends`, `takes`: which of them believe it to be the mesh link."""

    cdef H2 near, far
    cdef BufPool bufs
    cdef Pool pool
    cdef Msg msg
    cdef char *arena
    cdef uint64_t stats[H2N_N]

    def __cinit__(self, sends: bool = True, takes: bool = True):
        cdef H2Limits limits
        memset(&limits, 0, sizeof(limits))
        buf_init(&self.bufs, 1 << 24)
        pool_init(&self.pool, sizeof(H2Stream), 4)
        self.arena = <char *>malloc(H2_ARENA)
        h2_init(&self.near, False, sends, &NO_OPS, NULL, &self.bufs, &self.pool, &self.msg, self.arena, &limits, self.stats)
        h2_init(&self.far, True, takes, &NO_OPS, NULL, &self.bufs, &self.pool, &self.msg, self.arena, &limits, self.stats)

    def __dealloc__(self):
        h2_end(&self.near)
        h2_end(&self.far)
        buf_end(&self.bufs)
        pool_end(&self.pool)
        free(self.arena)

    def encode(self, head: bytes, response: bool = False, minor: int = -1) -> bytes:
        """The block of an HTTP/1 head. minor: as if it had come with this one."""
        cdef Msg m
        cdef uint32_t size
        cdef char *p
        cdef char *end
        parse(head, response, &m)
        if minor >= 0:
            m.minor = minor
        size = h2_head_size(&self.near, &m)
        p = <char *>malloc(size)
        end = h2_head_encode(&self.near, &m, p, p + size)
        block = p[:end - p] if end != NULL else None
        free(p)
        return block

    def decode(self, block: bytes, response: bool = False, keep: bool = False, hygiene: bool = False):
        """(code, head or None); keep: after it was put away and taken up again."""
        cdef Msg m
        cdef uint32_t n = <uint32_t>len(block)
        cdef char *p = <char *>malloc(n)
        cdef char *kept = NULL
        cdef int rc
        memcpy(p, <const char *>block, n)
        memset(&m, 0xAA, sizeof(m))
        memset(self.arena, 0x5A, H2_ARENA)
        rc = h2_head_decode(&self.far, H2_RESPONSE if response else H2_REQUEST, p, n, &m)
        if rc == 0 and hygiene:
            rc = hygiene_response(&m, False) if response else hygiene_request(&m, False)
        if rc == 0 and keep:
            kept = <char *>malloc(msg_kept_size(&m))
            msg_keep(&m, kept)
            memset(self.arena, 0x5A, H2_ARENA)
            memset(&m, 0xAA, sizeof(m))
            msg_load(&m, kept)
        out = as_dict(&m) if rc == 0 else None
        free(kept)
        free(p)
        return rc, out

    def repeat(self, head: bytes, response: bool, times: int) -> None:
        """Both ways, for counting instructions."""
        cdef Msg m
        cdef Msg got
        cdef char *p
        cdef char *end
        cdef uint32_t size
        cdef int i, n = times
        cdef bint is_response = response
        parse(head, response, &m)
        size = h2_head_size(&self.near, &m)
        p = <char *>malloc(size)
        for i in range(n):
            end = h2_head_encode(&self.near, &m, p, p + size)
            if h2_head_decode(&self.far, H2_RESPONSE if is_response else H2_REQUEST, p, <uint32_t>(end - p), &got) != 0:
                raise AssertionError("not taken")
        free(p)
