"""Fuzz targets of HPACK: each takes one input and raises AssertionError with the invariant that does not hold.

`hpack` decodes blocks, writes what they held with our encoder and reads that again; `hpack_fields` makes header lists of its input.
Each block lies in heap memory of its exact size: AddressSanitizer sees what is read beside it.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from fastmesh._core.base.buf cimport BufPool, block_data, buf_end, buf_init
from fastmesh._core.base.err cimport FM_EHPACK, FM_ENOMEM
from fastmesh._core.base.view cimport View, ascii_lower, view_of
from fastmesh._core.proto.hpack cimport HpackArena, HpackDec, hpack_block_begin, hpack_dec_end, hpack_dec_init, hpack_next
from fastmesh._core.proto.hpack_enc cimport (
    HpackEnc, hpack_enc_begin, hpack_enc_end, hpack_enc_field, hpack_enc_init, hpack_enc_limit)
from fastmesh._core.proto.hpack_table cimport HPACK_ENTRY, HpackEntry, HpackTable, table_get
from fastmesh._core.proto.msg cimport HF_NEVER, Hdr

TARGETS = ("hpack", "hpack_fields")

cdef enum:
    INPUT_MOST = 8192
    FIELDS = 1024
    ROOM = 262144                # of an arena: all that one input can make
    WRITTEN = 524288
    MEMORY = 65536

cdef char arena_first[ROOM]
cdef char arena_second[ROOM]
cdef char written[WRITTEN]
cdef Hdr read_first[FIELDS]
cdef Hdr read_second[FIELDS]


cdef const char *table_faults(const HpackTable *t, const BufPool *bufs, uint32_t blocks) noexcept nogil:
    cdef HpackEntry e
    cdef uint32_t i, size = 0, stored = 0
    cdef const char *low
    for i in range(t.n):
        if not table_get(t, i, &e):
            return "an entry that cannot be looked up"
        low = block_data(t.bytes)
        if e.name < low + t.bytes.start or e.value + e.value_n > low + t.bytes.end:
            return "an entry outside of its block"
        size += <uint32_t>e.name_n + e.value_n + HPACK_ENTRY
        stored += <uint32_t>e.name_n + e.value_n + 8
    if size != t.size or size > t.max:
        return "the size of a table is wrong"
    if t.n and stored != t.bytes.end - t.bytes.start:
        return "bytes between the entries"
    if bufs.live > blocks:
        return "more than a block for a table"
    return NULL


cdef int decode(HpackDec *d, BufPool *bufs, const char *p, uint32_t n, char *arena, uint32_t list_most, Hdr *out, uint32_t *over) noexcept nogil:
    """Fields, or a code."""
    cdef View v = view_of(p, n)
    cdef HpackArena a
    cdef Hdr unused
    cdef int rc, count = 0
    a.begin = arena
    a.p = arena
    a.end = arena + ROOM
    a.list_n = 0
    a.list_most = list_most
    a.over = 0
    hpack_block_begin(d)
    while True:
        rc = hpack_next(d, &v, bufs, &a, &out[count] if count < FIELDS else &unused)
        if rc <= 0:
            break
        if count < FIELDS:
            count += 1
        else:
            a.over = 1
    over[0] = a.over
    return rc if rc < 0 else count


cdef bint same(const Hdr *x, const Hdr *y) noexcept nogil:
    cdef uint32_t i
    if x.name_n != y.name_n or x.value_n != y.value_n or (x.flags & HF_NEVER and not y.flags & HF_NEVER):
        return False
    for i in range(x.name_n):
        if ascii_lower(<uint8_t>x.name[i]) != <uint8_t>y.name[i]:
            return False
    return x.value_n == 0 or memcmp(x.value, y.value, x.value_n) == 0


cdef const char *round_trip(HpackEnc *e, HpackDec *back, BufPool *bufs, BufPool *peer, const Hdr *h, int n) noexcept nogil:
    cdef char *p = hpack_enc_begin(e, written, written + WRITTEN)
    cdef const char *fault
    cdef uint32_t over = 0
    cdef int i, got
    for i in range(n):
        # the id of a name in another case is still its id; with characters that no name has it is H_NONE, as everywhere
        p = hpack_enc_field(e, bufs, p, written + WRITTEN, h[i].name, h[i].name_n, h[i].value, h[i].value_n, h[i].id, h[i].flags)
        if p == NULL:
            return "what was read does not fit where it is written"
    got = decode(back, peer, written, <uint32_t>(p - written), arena_second, 0xffffffff, read_second, &over)
    if got != n or over:
        return "we do not read what we write"
    for i in range(n):
        if not same(&h[i], &read_second[i]):
            return "a field changed on the way"
    if back.t.n < e.t.n:
        return "the encoder holds what its peer does not"
    fault = table_faults(&e.t, bufs, 2)
    return fault if fault != NULL else table_faults(&back.t, peer, 1)


cdef const char *blocks_target(const char *p, uint32_t n, uint32_t seed, HpackDec *d, HpackEnc *e, HpackDec *back, BufPool *bufs,
                              BufPool *peer) noexcept nogil:
    """A block is its length in one byte, taken eight times when the seed is odd, and its bytes."""
    cdef const char *fault
    cdef char *block
    cdef uint32_t take, over = 0, at = 0
    cdef uint32_t list_most = 0xffffffff if seed & 2 == 0 else (seed >> 2) & 1023
    cdef int got
    while at < n:
        take = <uint8_t>p[at]
        at += 1
        if seed & 1:
            take *= 8
        if take > n - at:
            take = n - at
        block = <char *>malloc(take if take else 1)
        if block == NULL:
            return NULL
        memcpy(block, p + at, take)
        at += take
        got = decode(d, bufs, block, take, arena_first, list_most, read_first, &over)
        fault = NULL
        if got >= 0 and not over:
            fault = round_trip(e, back, bufs, peer, read_first, got)
        free(block)
        if fault != NULL:
            return fault
        if got < 0 and got != FM_EHPACK and got != FM_ENOMEM:
            return "a code that no one expects"
        fault = table_faults(&d.t, bufs, 2)
        if fault != NULL or got < 0:
            return fault
    return NULL


cdef const char *fields_target(const char *p, uint32_t n, uint32_t seed, HpackEnc *e, HpackDec *back, BufPool *bufs,
                              BufPool *peer) noexcept nogil:
    """Records (what, name length, value length, bytes): bit 0 of `what` ends a block, bit 1 repeats the last field but one, bit 2 is
    HF_NEVER, bit 3 takes the length sixteen times, bit 4 a table size of the peer."""
    cdef const char *fault
    cdef uint32_t at = 0, name_n, value_n
    cdef uint8_t what
    cdef int count = 0
    while at + 3 <= n:
        what = <uint8_t>p[at]
        name_n = <uint8_t>p[at + 1]
        value_n = <uint8_t>p[at + 2] * <uint32_t>(16 if what & 8 else 1)
        at += 3
        if what & 16:
            hpack_enc_limit(e, value_n * 4)
        elif what & 2 and count >= 2:
            read_first[count] = read_first[count - 2]
            count += 1
        else:
            name_n = name_n if name_n < n - at else n - at
            read_first[count].name = p + at
            read_first[count].name_n = <unsigned short>name_n
            at += name_n
            value_n = value_n if value_n < n - at else n - at
            read_first[count].value = p + at
            read_first[count].value_n = value_n
            at += value_n
            read_first[count].id = 0
            read_first[count].flags = HF_NEVER if what & 4 else 0
            count += 1
        if what & 1 or count >= 16:
            fault = round_trip(e, back, bufs, peer, read_first, count)
            if fault != NULL:
                return fault
            count = 0
    return round_trip(e, back, bufs, peer, read_first, count)


def run(str target, bytes data):
    """One input: its first two bytes are settings, the rest is fed to the target."""
    cdef const char *fault
    cdef BufPool bufs, peer
    cdef HpackDec d, back
    cdef HpackEnc e
    cdef uint32_t n, seed
    cdef char *p
    if len(data) < 2 or len(data) > INPUT_MOST:
        return
    seed = data[0] | <uint32_t>data[1] << 8
    n = len(data) - 2
    p = <char *>malloc(n if n else 1)
    if p == NULL:
        raise MemoryError
    memcpy(p, (<const char *>data) + 2, n)
    buf_init(&bufs, 3072 if seed & 0x8000 else MEMORY)  # little: not each entry finds room
    buf_init(&peer, MEMORY)
    hpack_dec_init(&d, 256 if seed & 0x4000 else 4096)
    hpack_dec_init(&back, 4096)
    hpack_enc_init(&e, seed & 0x2000 == 0)
    if target == "hpack":
        fault = blocks_target(p, n, seed, &d, &e, &back, &bufs, &peer)
    else:
        fault = fields_target(p, n, seed, &e, &back, &bufs, &peer)
    hpack_dec_end(&d, &bufs)
    hpack_dec_end(&back, &peer)
    hpack_enc_end(&e, &bufs)
    if fault == NULL and (bufs.held or peer.held):
        fault = "memory is lost"
    buf_end(&bufs)
    buf_end(&peer)
    free(p)
    if fault != NULL:
        raise AssertionError(f"{target}: {fault.decode()}: {data!r}")
