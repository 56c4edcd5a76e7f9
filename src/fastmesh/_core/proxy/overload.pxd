"""What a worker does when it has too much (L3): it says no while it still can say it quickly, as Envoy's overload manager.

Memory: from 90 % of max_memory on clients are told to leave (connection: close, GOAWAY), from 95 % on new requests get 503 OM; so requests
that are under way find room to end. Requests in flight: max_exchanges, then the same answer. Time: how long connections that are ready wait
for their turn is measured by an event of our own, which the kernel queues among theirs; when three in a row waited for longer than
shed_lag_ms, new requests are refused until one has not. A worker that was stopped for once, however long, is not overloaded.
"""
from fastmesh._core.proxy.ctx cimport Worker

cdef enum:
    SHED_SPARE = 4096            # exchanges and streams above max_exchanges: what refusals need until the end of the turn
    SHED_PARTS = 10              # clients are told to leave when less than a 10th of the memory is left ...
    SHED_MEMORY = 20             # ... and refused when less than a 20th
    SHED_LAGS = 3                # measures in a row
    PROBE_MS = 50                # from one measure to the next

cdef int overload_init(Worker *w) noexcept nogil
"""Once, when the reactor is there. FM_OK or FM_ENOMEM: out of descriptors."""
cdef void overload_probe(Worker *w) noexcept nogil
"""At the begin of a turn: send the next measure when it is due and the worker is not idle."""
cdef bint overload_sheds(Worker *w) noexcept nogil
"""Whether a request that has come now is refused (counted by reason): answer it with RE_OVERLOAD."""
cdef bint overload_parts(Worker *w) noexcept nogil
"""Whether the client of a request that has come now is to be told to leave (counted)."""
