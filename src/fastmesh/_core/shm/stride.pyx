"""The step of weighted round robin (L1). See stride.pxd."""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    STRIDE_WINDOW = 32             # steps looked at on each side of the golden section


cdef uint32_t rr_stride(uint64_t total) noexcept nogil:
    cdef uint64_t golden = <uint64_t>(total * 0.6180339887 + 0.5)
    cdef uint64_t step, a, b, q, most
    cdef uint64_t best = 1
    cdef uint64_t best_most = total
    if total <= 1:
        return 0
    for step in range(golden - min(golden - 1, STRIDE_WINDOW), min(golden + STRIDE_WINDOW, total - 1) + 1):
        a, b, most = total, step, 0
        while b != 0:
            q = a // b
            a, b = b, a - q * b
            most = max(most, q)
        if a == 1 and most < best_most:
            best = step
            best_most = most
    return <uint32_t>best
