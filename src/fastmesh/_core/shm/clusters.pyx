"""BORDER (L1): the cells of clusters as Python sees them: who owns which, and what they say. For the agent and its views."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from fastmesh._core.base.sys cimport fm_load_acquire, fm_load_acquire32, fm_load_relaxed, fm_load_relaxed32, fm_store_release32
from fastmesh._core.shm.cells cimport ClCell, ClShard, EpCell
from fastmesh._core.shm.layout cimport CL_CELLS, EP_CELLS, SNAP_SLOT_BYTES
from fastmesh._core.shm.segment cimport Segment
from fastmesh._core.shm.snapshot cimport SnapCluster, SnapHeader


def index_of(i: int) -> int:
    if not 0 <= i < CL_CELLS:
        raise IndexError(f"cluster cell {i} of {CL_CELLS}")
    return i


def published_ids(segment: Segment) -> set[int]:
    """The ids of all clusters that the published generation names."""
    cdef uint64_t now = fm_load_acquire(&segment.hdr.current)
    cdef const char *p = segment.snaps + (now & 0xff) * <size_t>SNAP_SLOT_BYTES
    cdef const SnapHeader *h = <const SnapHeader *>p
    cdef const SnapCluster *k
    cdef uint32_t i
    if now == 0:
        return set()
    k = <const SnapCluster *>(p + h.clusters.off)
    return {k[i].id for i in range(h.clusters.n)}


def owners(segment: Segment) -> dict[int, int]:
    """Which cluster id owns which cell."""
    cdef ClCell *c = segment.cluster_cells_at()
    cdef uint32_t i
    return {c[i].tag: i for i in range(fm_load_acquire32(&segment.hdr.clusters_high)) if c[i].tag}


def take(segment: Segment, cell: int, owner: int) -> None:
    """The cell belongs to this cluster from now on."""
    cdef uint32_t i = index_of(cell)
    segment.cluster_cells_at()[i].tag = owner
    if i >= segment.hdr.clusters_high:
        fm_store_release32(&segment.hdr.clusters_high, i + 1)


def quiet(segment: Segment, cell: int) -> bool:
    """No worker has a request or a connection there."""
    cdef uint32_t i = index_of(cell)
    cdef uint32_t w
    cdef ClShard *c
    for w in range(segment.workers):
        c = &segment.cluster_rows_at()[w].c[i]
        if fm_load_relaxed32(&c.active) or fm_load_relaxed32(&c.connections) or fm_load_relaxed32(&c.retries):
            return False
    return True


def release(segment: Segment, cell: int) -> None:
    """Forget all about it; only for one that is quiet and that no generation in use names."""
    cdef uint32_t i = index_of(cell)
    cdef uint32_t w
    for w in range(segment.workers):
        memset(&segment.cluster_rows_at()[w].c[i], 0, sizeof(ClShard))
    memset(&segment.cluster_cells_at()[i], 0, sizeof(ClCell))


def stats(segment: Segment, cell: int) -> dict[str, int]:
    """The gauges of circuit breaking, summed over the workers, what the limits have refused and clients repeated, and endpoints that are ejected, or unhealthy."""
    cdef uint32_t i = index_of(cell)
    cdef uint32_t w
    cdef ClShard *c
    sums = dict.fromkeys(("active", "pending", "connections", "retries", "overflows", "repeats"), 0)
    for w in range(segment.workers):
        c = &segment.cluster_rows_at()[w].c[i]
        sums["active"] += fm_load_relaxed32(&c.active)
        sums["pending"] += fm_load_relaxed32(&c.pending)
        sums["connections"] += fm_load_relaxed32(&c.connections)
        sums["retries"] += fm_load_relaxed32(&c.retries)
        sums["overflows"] += fm_load_relaxed(&c.overflows)
        sums["repeats"] += fm_load_relaxed(&c.repeats)
    return {
        **sums, "ejected": fm_load_relaxed32(&segment.cluster_cells_at()[i].ejected),
        "unhealthy": fm_load_relaxed32(&segment.cluster_cells_at()[i].unhealthy),
    }


def verdict(segment: Segment, cell: int) -> dict[str, int]:
    """What outlier detection holds of an endpoint; `ejected_until`: CLOCK_MONOTONIC ns, 0: it is not ejected."""
    if not 0 <= cell < EP_CELLS:
        raise IndexError(f"endpoint cell {cell} of {EP_CELLS}")
    cdef EpCell *e = &segment.cells_at()[<uint32_t>cell]
    return {
        "ejected_until": fm_load_relaxed(&e.ejected_until_ns), "probing": fm_load_relaxed32(&e.probing),
        "ejections": fm_load_relaxed32(&e.ejections), "in_row_5xx": fm_load_relaxed32(&e.in_row_5xx),
        "in_row_gateway": fm_load_relaxed32(&e.in_row_gateway), "in_row_local": fm_load_relaxed32(&e.in_row_local),
        "rate_requests": fm_load_relaxed32(&e.rate_requests), "rate_failures": fm_load_relaxed32(&e.rate_failures),
    }


def health(segment: Segment, cell: int) -> dict[str, int]:
    """What active health checks say of an endpoint: `health` HE_* of shm/cells.pxd; `check_at`: when the next is due (CLOCK_MONOTONIC)."""
    if not 0 <= cell < EP_CELLS:
        raise IndexError(f"endpoint cell {cell} of {EP_CELLS}")
    cdef EpCell *e = &segment.cells_at()[<uint32_t>cell]
    return {
        "health": fm_load_relaxed32(&e.health), "in_row_pass": fm_load_relaxed32(&e.in_row_pass),
        "in_row_fail": fm_load_relaxed32(&e.in_row_fail), "check_at": fm_load_relaxed(&e.check_at_ns),
    }
