"""The segment as a worker sees it (L1): plain pointers, taken once at its start, used without the GIL."""
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._core.base.err cimport FM_OK
from fastmesh._core.base.sys cimport (
    fm_cas32, fm_fence, fm_load_acquire, fm_load_relaxed32, write)
from fastmesh._core.shm.cells cimport Bucket, ClCell, ClRow, EpCell, EpRow, Memo
from fastmesh._core.shm.layout cimport MAX_WORKERS, SNAP_SLOT_BYTES, SegHeader, WorkerSlot
from fastmesh._core.shm.ring cimport Ring, ring_put
from fastmesh._core.shm.snapshot cimport Snap, SnapHeader
from fastmesh._core.shm.stats cimport ST_LOG_DROPPED, PeerTable, SeriesTable, StatsRow, stat_inc

cdef struct SegMap:
    # borrowed from the Segment: valid as long as the Segment object lives
    SegHeader *hdr
    WorkerSlot *slot             # this worker's
    StatsRow *stats              # this worker's
    SeriesTable *series          # this worker's
    PeerTable *peers             # this worker's
    Ring *ring                   # this worker's
    EpRow *rows                  # [workers]: rows[self_row] is this worker's
    EpCell *cells                # [EP_CELLS]
    ClRow *cluster_rows          # [workers]
    ClCell *cluster_cells        # [CL_CELLS]
    Memo *memos                  # [MEMOS]
    Bucket *buckets              # [BUCKETS]
    const char *snaps            # SNAP_SLOTS windows, read-only
    uint32_t workers
    uint32_t self_row
    int wake_fd                  # becomes readable on an order or a new generation: read 8 bytes
    int agent_fd                 # the agent's

cdef class Segment:
    cdef int seg_fd
    cdef int snap_fd
    cdef readonly int agent_fd
    cdef readonly uint32_t workers
    cdef int wake[MAX_WORKERS]
    cdef char *base
    cdef char *snaps
    cdef SegHeader *hdr
    cdef uint64_t total
    cdef bint snaps_readonly

    cdef WorkerSlot *slot_at(self, uint32_t i) noexcept
    cdef StatsRow *stats_at(self, uint32_t i) noexcept
    cdef SeriesTable *series_at(self, uint32_t i) noexcept
    cdef PeerTable *peers_at(self, uint32_t i) noexcept
    cdef Ring *ring_at(self, uint32_t i) noexcept
    cdef EpRow *rows_at(self) noexcept
    cdef EpCell *cells_at(self) noexcept
    cdef ClRow *cluster_rows_at(self) noexcept
    cdef ClCell *cluster_cells_at(self) noexcept
    cdef uint64_t oldest_in_use(self) noexcept
    cdef bint slot_free(self, uint32_t i, uint64_t oldest) noexcept

cdef int segment_map(Segment seg, int slot, SegMap *out)
"""Called once by a worker, with the GIL, in its own process: fills `out`, maps the snapshots read-only (for this whole process) and sets
the slot's pid. FM_OK, or FM_ENOMEM. The caller keeps a reference to `seg`."""

cdef inline uint64_t snap_current(const SegMap *m, Snap *out) noexcept nogil:
    """The newest generation, 0 when there is none yet (`out` is then not to be used). Store it to slot.seen_gen once in use, and only
    then may pointers of the generation before be dropped."""
    cdef uint64_t v = fm_load_acquire(&m.hdr.current)
    out.generation = v >> 8
    out.base = m.snaps + (v & 0xff) * <uint64_t>SNAP_SLOT_BYTES
    out.h = <const SnapHeader *>out.base
    return out.generation

cdef inline bint segment_log_on(const SegMap *m) noexcept nogil:
    return fm_load_relaxed32(&m.hdr.log_on) != 0

cdef inline void segment_poke_agent(SegMap *m) noexcept nogil:
    """Wake the agent if it sleeps. The fence pairs with Segment.arm(): either this sees agent_sleeping, or arm() sees the record."""
    cdef uint64_t one = 1
    fm_fence()
    if fm_load_relaxed32(&m.hdr.agent_sleeping) != 0 and fm_cas32(&m.hdr.agent_sleeping, 1, 0):
        write(m.agent_fd, &one, 8)

cdef inline int segment_log(SegMap *m, const void *rec, uint32_t n) noexcept nogil:
    """An access-log record (LogRec and its strings) into this worker's ring; a full ring is counted. FM_OK or FM_EFULL."""
    cdef int rc = ring_put(m.ring, rec, n)
    if rc != FM_OK:
        stat_inc(m.stats, ST_LOG_DROPPED)
        return rc
    segment_poke_agent(m)
    return FM_OK
