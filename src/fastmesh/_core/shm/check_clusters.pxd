"""The check of clusters and endpoints (L1)."""
from fastmesh._core.shm.check cimport Check

cdef int check_clusters(Check *c) noexcept nogil
