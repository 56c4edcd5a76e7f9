"""What is told of a TCP session (L3): metric series while it goes on, one access-log record at its end."""
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proxy.ctx cimport Tcp

cdef enum:
    TCP_TELL_MS = 5000           # bytes of a session that goes on are in the metrics after so long (Istio: tcp_reporting_duration 5 s)

cdef void tcp_log_keep(Tcp *t, Slice name, Slice cluster, Slice route) noexcept nogil
"""Copy what the record will name, if there is to be one."""
cdef void tcp_log_opened(Tcp *t) noexcept nogil
"""The session has got its upstream."""
cdef void tcp_log_moved(Tcp *t) noexcept nogil
"""Bytes have moved: they are told within TCP_TELL_MS."""
cdef void tcp_log_tell(Tcp *t) noexcept nogil
"""Move the bytes that are not told yet into counters and series."""
cdef void tcp_log_over(Tcp *t) noexcept nogil
"""Once: its end, while both connections are still there."""
