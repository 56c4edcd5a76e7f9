"""Test access to HPACK: one decoder and one encoder with a BufPool of their own."""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc

from fastmesh._core.base.buf cimport BufPool, buf_end, buf_init
from fastmesh._core.base.err cimport FM_EHEAD
from fastmesh._core.base.view cimport View, view_of
from fastmesh._core.proto.hpack cimport HpackArena, HpackDec, hpack_block_begin, hpack_dec_end, hpack_dec_init, hpack_next
from fastmesh._core.proto.hpack_enc cimport (
    HpackEnc, hpack_enc_begin, hpack_enc_end, hpack_enc_field, hpack_enc_init, hpack_enc_limit)
from fastmesh._core.proto.huffman cimport huffman_decode, huffman_encode, huffman_size
from fastmesh._core.proto.msg cimport HF_NEVER, Hdr, hdr_id


def huff(data: bytes) -> bytes:
    cdef uint32_t n = huffman_size(data, <uint32_t>len(data))
    cdef char *out = <char *>malloc(n + 1)
    cdef char *end = huffman_encode(data, <uint32_t>len(data), out)
    try:
        if end - out != n:
            raise AssertionError("huffman_size and huffman_encode disagree")
        return out[:n]
    finally:
        free(out)


def unhuff(data: bytes, cap: int = 65536):
    """Bytes, or the code."""
    cdef char *out = <char *>malloc(cap + 1)
    cdef int n = huffman_decode(data, <uint32_t>len(data), out, cap)
    try:
        return out[:n] if n >= 0 else n
    finally:
        free(out)


cdef class Decoder:
    cdef HpackDec d
    cdef BufPool bufs
    cdef char *arena
    cdef uint32_t arena_n

    def __cinit__(self, limit=4096, arena=98304, memory=1 << 20):
        buf_init(&self.bufs, memory)
        hpack_dec_init(&self.d, limit)
        self.arena = <char *>malloc(arena)
        self.arena_n = arena

    def __dealloc__(self):
        hpack_dec_end(&self.d, &self.bufs)
        buf_end(&self.bufs)
        free(self.arena)

    def decode(self, block: bytes, list_most: int = 1 << 30):
        """([(name, value, id, never)], over), or the code. What is returned is copied when the block is done: aliasing would show."""
        cdef char *p = <char *>malloc(len(block) + 1)
        cdef View v
        cdef HpackArena a
        cdef Hdr h[4096]
        cdef int rc, n = 0
        cdef bytes raw = block
        for i in range(len(raw)):
            p[i] = raw[i]
        v = view_of(p, len(raw))
        a.begin = self.arena
        a.p = self.arena
        a.end = self.arena + self.arena_n
        a.list_n = 0
        a.list_most = list_most
        a.over = 0
        hpack_block_begin(&self.d)
        try:
            while True:
                rc = hpack_next(&self.d, &v, &self.bufs, &a, &h[n])
                if rc < 0:
                    return rc
                if rc == 0:
                    break
                n = n + 1 if n < 4095 else n
            if a.over:
                return [], True
            return [(h[i].name[:h[i].name_n], h[i].value[:h[i].value_n], h[i].id, bool(h[i].flags & HF_NEVER)) for i in range(n)], False
        finally:
            free(p)

    def table(self) -> tuple[int, int, int]:
        """(entries, size, bytes of memory held)"""
        return self.d.t.n, self.d.t.size, self.bufs.held


cdef class Encoder:
    cdef HpackEnc e
    cdef BufPool bufs

    def __cinit__(self, huffman=True, memory=1 << 20):
        buf_init(&self.bufs, memory)
        hpack_enc_init(&self.e, huffman)

    def __dealloc__(self):
        hpack_enc_end(&self.e, &self.bufs)
        buf_end(&self.bufs)

    def limit(self, peer_max: int) -> None:
        hpack_enc_limit(&self.e, peer_max)

    def encode(self, fields, room: int = 1 << 20) -> bytes | None:
        """fields: (name, value) or (name, value, never)."""
        cdef uint32_t cap = room
        cdef char *buf = <char *>malloc(cap + 1)
        cdef char *p = buf
        cdef bytes name, value
        try:
            p = hpack_enc_begin(&self.e, p, buf + cap)
            for f in fields:
                if p == NULL:
                    return None
                name = f[0]
                value = f[1]
                p = hpack_enc_field(&self.e, &self.bufs, p, buf + cap, name, <uint32_t>len(name), value, <uint32_t>len(value),
                                    hdr_id(name, <uint32_t>len(name)), HF_NEVER if len(f) > 2 and f[2] else 0)
            return buf[:p - buf] if p != NULL else None
        finally:
            free(buf)

    def table(self) -> tuple[int, int, int]:
        return self.e.t.n, self.e.t.size, self.bufs.held


def bench_encode(fields, rounds: int) -> int:
    """Encode the same fields again and again; bytes of the last block."""
    cdef HpackEnc e
    cdef BufPool bufs
    cdef char out[16384]
    cdef char *p = out
    cdef Hdr h[64]
    cdef int n = 0
    cdef int i, r
    keep = []
    for name, value in fields:
        keep.append((name, value))
        h[n].name = <bytes>name
        h[n].name_n = len(name)
        h[n].value = <bytes>value
        h[n].value_n = len(value)
        h[n].id = hdr_id(<bytes>name, len(name))
        n += 1
    buf_init(&bufs, 1 << 20)
    hpack_enc_init(&e, True)
    for r in range(rounds):
        p = hpack_enc_begin(&e, out, out + 16384)
        for i in range(n):
            p = hpack_enc_field(&e, &bufs, p, out + 16384, h[i].name, h[i].name_n, h[i].value, h[i].value_n, h[i].id, 0)
    hpack_enc_end(&e, &bufs)
    buf_end(&bufs)
    return p - out


def bench_decode(fields, rounds: int) -> int:
    """Decode a block of indexed fields again and again; fields seen."""
    cdef HpackDec d
    cdef BufPool bufs
    cdef HpackArena a
    cdef View v
    cdef Hdr h
    cdef char room[16384]
    cdef int r, rc = 0, seen = 0
    cdef bytes block
    encoder = Encoder()
    buf_init(&bufs, 1 << 20)
    hpack_dec_init(&d, 4096)
    a.begin = room
    a.end = room + 16384
    a.list_most = 1 << 30
    for r in range(rounds):
        if r < 3:                # literals first, entries then, indexes from the third on
            block = encoder.encode(fields)
        v = view_of(<const char *>block, len(block))
        a.p = room
        a.list_n = 0
        a.over = 0
        hpack_block_begin(&d)
        while True:
            rc = hpack_next(&d, &v, &bufs, &a, &h)
            if rc <= 0:
                break
            seen += 1
    hpack_dec_end(&d, &bufs)
    buf_end(&bufs)
    return seen if rc == 0 else rc


def bench_huffman(data: bytes, rounds: int, encode: bool) -> int:
    """Code or decode the same string again and again; bytes of the last result."""
    cdef bytes coded = huff(data)
    cdef char room[16384]
    cdef int i, made = 0
    cdef bint forth = encode
    cdef uint32_t n = len(data), coded_n = len(coded)
    if n > 8000:
        raise ValueError("too long")
    for i in range(rounds):
        if forth:
            made = <int>(huffman_encode(data, n, room) - room) if huffman_size(data, n) else 0
        else:
            made = huffman_decode(coded, coded_n, room, 16384)
    return made
