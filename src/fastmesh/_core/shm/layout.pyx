"""The sizes of what is shared (L1), checked when this is compiled. See layout.pxd."""
from fastmesh._core.base.sys cimport FM_STATIC_ASSERT
from fastmesh._core.shm.authztab cimport SnapAuthz, SnapAuthzDim, SnapAuthzKey
from fastmesh._core.shm.cells cimport Bucket, ClCell, ClRow, ClShard, EpCell, EpRow, EpShard, Memo
from fastmesh._core.shm.layout cimport CL_CELLS, EP_CELLS, SegHeader, WorkerSlot
from fastmesh._core.shm.ring cimport LogRec, Ring
from fastmesh._core.shm.snapshot cimport (
    SnapAction, SnapCluster, SnapCond, SnapCors, SnapDest, SnapEndpoint, SnapHdrOp, SnapHeader, SnapHealth, SnapHost, SnapLevel,
    SnapLimit, SnapListener, SnapMirror, SnapOrigin, SnapOutlier, SnapPath, SnapRoute, SnapTable, SnapTls, SnapVhost)
from fastmesh._core.shm.stats cimport Hist, PeerTable, Series, SeriesKey, SeriesTable, StatsRow


cdef void layout_is_as_written() noexcept nogil:
    # A process of another build may map this memory: sizes are part of the contract.
    FM_STATIC_ASSERT(sizeof(SegHeader) == 256)
    FM_STATIC_ASSERT(sizeof(WorkerSlot) == 128)
    FM_STATIC_ASSERT(sizeof(StatsRow) == 4096)
    FM_STATIC_ASSERT(sizeof(Hist) == 168)
    FM_STATIC_ASSERT(sizeof(SeriesKey) == 32)
    FM_STATIC_ASSERT(sizeof(Series) == 1024)
    FM_STATIC_ASSERT(sizeof(SeriesTable) == 64 + 4096 + 1024 * 1024)
    FM_STATIC_ASSERT(sizeof(PeerTable) == 64 + 65536)
    FM_STATIC_ASSERT(sizeof(EpCell) == 128)
    FM_STATIC_ASSERT(sizeof(EpShard) == 32)
    FM_STATIC_ASSERT(sizeof(EpRow) == 32 * EP_CELLS)
    FM_STATIC_ASSERT(sizeof(ClCell) == 64)
    FM_STATIC_ASSERT(sizeof(ClShard) == 32)
    FM_STATIC_ASSERT(sizeof(ClRow) == 32 * CL_CELLS)
    FM_STATIC_ASSERT(sizeof(Memo) == 16)
    FM_STATIC_ASSERT(sizeof(Bucket) == 16)
    FM_STATIC_ASSERT(sizeof(Ring) == 128)
    FM_STATIC_ASSERT(sizeof(LogRec) == 128)
    FM_STATIC_ASSERT(sizeof(SnapAuthz) == 64)
    FM_STATIC_ASSERT(sizeof(SnapAuthzDim) == 64)
    FM_STATIC_ASSERT(sizeof(SnapAuthzKey) == 32)
    FM_STATIC_ASSERT(sizeof(SnapHeader) == 256)
    FM_STATIC_ASSERT(sizeof(SnapListener) == 64)
    FM_STATIC_ASSERT(sizeof(SnapTable) == 32)
    FM_STATIC_ASSERT(sizeof(SnapHost) == 24)
    FM_STATIC_ASSERT(sizeof(SnapVhost) == 40)
    FM_STATIC_ASSERT(sizeof(SnapCond) == 32)
    FM_STATIC_ASSERT(sizeof(SnapRoute) == 64)
    FM_STATIC_ASSERT(sizeof(SnapHdrOp) == 24)
    FM_STATIC_ASSERT(sizeof(SnapDest) == 32)
    FM_STATIC_ASSERT(sizeof(SnapAction) == 192)
    FM_STATIC_ASSERT(sizeof(SnapOutlier) == 64)
    FM_STATIC_ASSERT(sizeof(SnapLevel) == 32)
    FM_STATIC_ASSERT(sizeof(SnapCluster) == 320)
    FM_STATIC_ASSERT(sizeof(SnapEndpoint) == 64)
    FM_STATIC_ASSERT(sizeof(SnapTls) == 96)
    FM_STATIC_ASSERT(sizeof(SnapMirror) == 8)
    FM_STATIC_ASSERT(sizeof(SnapOrigin) == 16)
    FM_STATIC_ASSERT(sizeof(SnapCors) == 64)
    FM_STATIC_ASSERT(sizeof(SnapPath) == 16)
    FM_STATIC_ASSERT(sizeof(SnapLimit) == 48)
    FM_STATIC_ASSERT(sizeof(SnapHealth) == 64)
