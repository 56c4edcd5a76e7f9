"""What policy_shim takes from shm_shim."""
from fastmesh._core.shm.segment cimport SegMap, Segment

cdef class Frozen:
    cdef char *map
    cdef char *base
    cdef size_t n
    cdef size_t room

cdef class WorkerView:
    cdef SegMap m
    cdef Segment seg
