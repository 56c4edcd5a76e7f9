"""Outlier detection (L2): which endpoint is ejected, for how long, and who finds out whether it is back. Envoy's consecutive errors, Istio's
outlierDetection; verdicts are one word per endpoint for all workers (EpCell.ejected_until_ns), so that what one has learnt all know.

An ejection ends by a probe, not by the clock: when its time is over, exactly one request of all workers goes there (outlier_claim). Its
result decides. The claim is itself an ejection, of the base time: a worker that dies with the probe in its hands blocks nobody for ever.
"""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.shm.cells cimport EpCell
from fastmesh._core.shm.segment cimport SegMap
from fastmesh._core.shm.snapshot cimport Snap, SnapCluster

cdef enum:  # what has become of an attempt
    OUT_OK = 0                   # an answer, and no error of the server's
    OUT_5XX                      # ... 5xx
    OUT_GATEWAY                  # ... 502, 503, 504: counts as both
    OUT_LOCAL                    # no answer: not connected, no TLS, reset, too late

cdef bint outlier_claim(const SnapCluster *c, EpCell *e, uint32_t self_row, uint64_t now_ns) noexcept nogil
"""For an endpoint whose ejection is over: True: this request is the probe; False: another one is, or the endpoint is ejected again."""
cdef void outlier_observe(SegMap *m, const Snap *s, const SnapCluster *c, uint32_t endpoint_cell, int kind, bint probe,
                          uint64_t now_ns) noexcept nogil
"""One attempt's result (OUT_*). `probe`: it was the one that outlier_claim gave. Nothing for a cluster without OF_ON."""
cdef void outlier_release(SegMap *m, uint32_t endpoint_cell, uint64_t now_ns) noexcept nogil
"""The probe has ended without a result: the next request may be it."""
