"""Warm-up (L2). See lb_warm.pxd."""
from libc.math cimport pow
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._core.base.sys cimport fm_load_relaxed
from fastmesh._core.policy.lb_warm cimport WARM_WHOLE
from fastmesh._core.shm.cells cimport EpCell
from fastmesh._core.shm.snapshot cimport SnapCluster


cdef uint32_t warm_share(const EpCell *e, const SnapCluster *c, uint64_t now_ns) noexcept nogil:
    cdef uint64_t since = fm_load_relaxed(&e.since_ns)
    cdef uint64_t age_ms
    cdef double share, least
    if since == 0:
        return WARM_WHOLE          # it was there when the proxy began
    age_ms = (now_ns - since) / 1000000 if now_ns > since else 0
    if age_ms < 1000:
        age_ms = 1000              # as Envoy: the first second counts as whole
    if age_ms >= c.warm_ms:
        return WARM_WHOLE
    share = <double>age_ms / c.warm_ms
    if c.warm_aggression_centi != 100:
        share = pow(share, 100.0 / c.warm_aggression_centi)
    least = c.warm_least_percent / 100.0
    if share < least:
        share = least
    return <uint32_t>(share * (WARM_WHOLE - 1)) + 1
