"""Runtime state of endpoints (L1), index stable over config generations. What a crash could leave raised is sharded by worker."""
from libc.stdint cimport uint32_t, uint64_t

cdef struct EpCell:              # 64 bytes; shared verdicts
    uint64_t tag                 # hash of cluster name and address: who owns this index; 0 = free
    uint64_t ejected_until_ns    # CLOCK_MONOTONIC; by CAS (issue-wide later use); 0 = not ejected
    uint64_t reserved[6]

cdef struct EpShard:             # 32 bytes; one worker's share
    uint32_t active              # exchanges in flight: zeroed by the arbiter when the worker dies
    uint32_t connections         # open connections: zeroed too
    uint64_t requests            # total
    uint64_t failures            # 5xx and connection failures, total
    uint64_t connects            # connections dialled, total

cdef struct EpRow:               # a worker's row
    EpShard e[8192]
