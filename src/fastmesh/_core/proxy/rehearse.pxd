"""A request gone through without being sent (L3): a worker's entry_head over a worker that has neither sockets nor cells of others. What
it would answer, or the head that it would send on, is kept as text. For proxy/explain; no worker calls this.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proxy.ctx cimport DownOps, ListenerState, Worker
from fastmesh._core.shm.segment cimport SegMap
from fastmesh._core.shm.snapshot cimport Snap, SnapListener

cdef enum:
    FIELDS_BYTES = 262144        # of a head: MSG_MAX_HEAD, HBUF_BYTES and what config adds; what is more is left out

cdef struct Rehearsal:
    Worker w
    ListenerState l
    DownOps ops
    int taken                    # it goes on to a destination; else it is answered here
    int broken                   # ... and the answer cannot be made: the connection would be closed
    int grpc                     # a gRPC call
    int mtls                     # the caller has shown a certificate
    int replayable               # its head can be sent again
    uint16_t status              # of the answer
    uint32_t rf                  # RF_*
    const char *details          # RESPONSE_CODE_DETAILS, or NULL
    Slice body                   # of the answer: the snapshot's, or static
    Slice target                 # of the request that goes on: the caller's head, the snapshot's, or w.hbuf
    uint64_t left_ms             # time that it has, the caller's word and the route's; 0: no limit
    int hashed                   # hash_key is set
    uint64_t hash_key
    uint32_t n                   # bytes of fields
    char *fields                 # "name: value\n" each

cdef Rehearsal *rehearsal_new(const SegMap *seg, const Snap *s, const SnapListener *l) noexcept nogil
"""One for requests by this listener; NULL: no memory. `seg`: row 0 of a segment of the caller's own, which takes what is counted. Borrowed
as the snapshot is; router_load(s) comes before rehearsal_run."""
cdef void rehearsal_run(Rehearsal *r, const char *head, uint32_t n, bint tls, int code) noexcept nogil
"""One HTTP/1 head, and nothing behind it. With a code other than FM_OK (base/err.pxd, respond.pxd) that is what happens to one that would
go on. The slices and fields of r are valid until the next run, as long as the caller's head and the snapshot."""
cdef void rehearsal_free(Rehearsal *r) noexcept nogil
"""NULL is none."""
