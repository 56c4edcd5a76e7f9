"""The check of actions and of what they point to (L1): destinations, header operations, ..."""
from fastmesh._core.shm.check cimport Check

cdef int check_actions(Check *c) noexcept nogil
