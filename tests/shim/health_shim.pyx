"""policy/health over a Segment's worker and a frozen snapshot, and proto/grpc_health."""
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._core.base.view cimport slice_of
from fastmesh._core.policy.health cimport (
    health_claim, health_count, health_due_ns, health_forget, health_give_back, health_out, health_result)
from fastmesh._core.proto.grpc_health cimport GRPC_HEALTH_MORE, grpc_health_request, grpc_health_status
from fastmesh._core.shm.cells cimport EpCell
from fastmesh._core.shm.snapshot cimport Snap, SnapCluster, fnv64, snap_cluster, snap_open
from shim.shm_shim cimport Frozen, WorkerView
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy


cdef class Checks:
    """What one worker does with a cluster's endpoints."""
    cdef Frozen frozen
    cdef WorkerView worker
    cdef Snap s
    cdef const SnapCluster *c

    def __cinit__(self, Frozen frozen, WorkerView worker, str name):
        raw = name.encode()
        self.frozen = frozen
        self.worker = worker
        snap_open(&self.s, frozen.base)
        self.c = snap_cluster(&self.s, fnv64(raw, len(raw)))
        if self.c == NULL:
            raise KeyError(name)

    def due(self, uint32_t cell, uint64_t now):
        return health_due_ns(&self.worker.m.cells[cell], &self.c.health, now)

    def claim(self, uint32_t cell, uint64_t now):
        return health_claim(&self.worker.m.cells[cell], &self.c.health, now)

    def give_back(self, uint32_t cell, uint64_t claim, uint64_t now):
        health_give_back(&self.worker.m.cells[cell], claim, now)

    def result(self, uint32_t cell, uint64_t claim, bint good, uint64_t now, uint32_t rnd=0):
        return health_result(&self.worker.m.cells[cell], &self.c.health, claim, good, now, rnd)

    def forget(self, uint32_t cell):
        health_forget(&self.worker.m.cells[cell])

    def count(self):
        return health_count(&self.worker.m, &self.s, self.c)

    def out(self):
        return health_out(self.worker.m.cells, &self.s, self.c)

    def since(self, uint32_t cell):
        return self.worker.m.cells[cell].since_ns


def grpc_request(bytes service):
    cdef uint32_t most = len(service) + GRPC_HEALTH_MORE
    cdef char *p = <char *>malloc(most)
    n = grpc_health_request(p, slice_of(service, len(service)))
    try:
        return p[:n]
    finally:
        free(p)


def grpc_status(bytes body):
    """Of exactly these bytes: one read too many is seen by AddressSanitizer."""
    cdef char *p = <char *>malloc(len(body))
    memcpy(p, <const char *>body, len(body))
    try:
        return grpc_health_status(p, <uint32_t>len(body))
    finally:
        free(p)
