"""What HTTP/2 does not say of an HTTP/1 head (L1): its minor version and the case of its field names, in one field of the mesh link.

Between two sidecars (HF2_LINK, both sides) a head that came as HTTP/1 carries `x-fastmesh-h1`, whose value is

    minor *code                    "0" or "1", then one code for each field as the writer has them, host (:authority) first

with a code being `l` for a name in lower case, `t` for Title-Case (upper at the start and behind each '-', else lower), `u` for UPPER CASE, and
`x` with a hex digit (0-9a-f) for each four bytes of the name, the lowest bit for the first of them, which says the upper ones. No codes at
all: every name is in lower case, or the codes would be longer than H2_CASE_MOST (or the block than its
reader takes). The same head always gives the same value, so HPACK
makes one byte of it. Wherever else the field comes from it is dropped (hygiene) and never believed.

Not kept: the place of Host (it comes first), where several cookie fields were, the case of `te` and of trailers, the reason phrase, and what
HTTP/1 says of a connection (h2_field_goes).
"""
from libc.stdint cimport uint32_t
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proto.hpack cimport HpackArena
from fastmesh._core.proto.msg cimport (
    H_CONNECTION, H_HOST, H_KEEP_ALIVE, H_PROXY_CONNECTION, H_TE, H_TRANSFER_ENCODING, H_UPGRADE, H_X_FASTMESH_H1, HF_DROP, Hdr, Msg)

cdef enum:
    H2_CASE_MOST = 256           # bytes of a value: a hundred names with some of odd case; an entry of the 4096 bytes that HPACK has
    H2_CASE_FIELD = 13 + H2_CASE_MOST + 32  # that the field counts at most, RFC 9113 6.5.2

cdef inline bint h2_field_goes(const Hdr *f) noexcept nogil:
    """A field that is written into an HTTP/2 head as it is; the others are dropped, of HTTP/1's connections, or said otherwise."""
    cdef int k = f.id
    return not (f.flags & HF_DROP or k == H_CONNECTION or k == H_KEEP_ALIVE or k == H_PROXY_CONNECTION or k == H_TRANSFER_ENCODING
                or k == H_UPGRADE or k == H_TE or k == H_HOST or k == H_X_FASTMESH_H1 or f.name[0] == 58)

cdef uint32_t h2_case_write(const Msg *m, char *out, uint32_t most) noexcept nogil
"""The value for m (minor 0 or 1) at out, which has `most` bytes (1 to H2_CASE_MOST); how many it takes (at least 1)."""

cdef int h2_case_read(Msg *m, Slice v, HpackArena *a) noexcept nogil
"""Sets m.minor and the names of m.hdr[0:nhdr], which hold every field that was written, host first. Names of the arena are changed in place,
others go into it. FM_OK; FM_EBAD: not a value for these fields; FM_EHEAD: the arena is full."""
