"""The check of route tables, virtual hosts, routes and conditions (L1)."""
from fastmesh._core.shm.check cimport Check

cdef int check_routes(Check *c) noexcept nogil
