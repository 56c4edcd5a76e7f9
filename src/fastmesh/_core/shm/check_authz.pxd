"""The check of authorization policies (L1)."""
from fastmesh._core.shm.check cimport Check

cdef int check_authz(Check *c) noexcept nogil
