"""The one MAP_SHARED segment of a proxy (L1): what it holds and where. Made by the arbiter before any fork.

WARNING: arbiter, agent and workers of different builds may meet here (hot restart). Whoever changes a struct bumps LAYOUT_VERSION and
the FM_STATIC_ASSERT sizes in layout.pyx.

    [SegHeader][WorkerSlot x MAX_WORKERS][StatsRow x workers][SeriesTable x workers][PeerTable x workers]
    [EpRow x workers][EpCell x EP_CELLS][ClRow x workers][ClCell x CL_CELLS][Memo x MEMOS][Bucket x BUCKETS]
    [ring x workers]
Config generations live in a second memfd (SNAP_SLOTS windows of SNAP_SLOT_BYTES, sparse); workers map it read-only.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    LAYOUT_VERSION = 5
    SEG_MAGIC = 0x466d5347       # "FmSG"
    MAX_WORKERS = 64
    EP_CELLS = 16384             # endpoints known at once, all clusters of one proxy; only cells that are used take memory
    CL_CELLS = 8192              # clusters known at once
    MEMOS = 4096                 # call trees remembered, newest first come
    BUCKETS = 65536              # token buckets of rate limits that are not full
    SNAP_SLOTS = 4
    SNAP_SLOT_BYTES = 67108864   # 64 MiB of address space each; memory is used only as filled
    RING_BYTES = 1048576         # access-log ring of one worker
    SERIES_SLOTS = 1024          # metric series of one worker; the last is the overflow series
    PEER_SLOTS = 256             # distinct peer identities of one worker; 0 = none, the last is "overflow"
    PEER_BYTES = 256

cdef enum:  # WorkerSlot.state
    W_EMPTY = 0
    W_STARTING
    W_SERVING                    # accepts
    W_DRAINING
    W_GONE

cdef enum:  # WorkerSlot.order, written by the arbiter
    ORDER_NONE = 0
    ORDER_DRAIN                  # stop accepting, finish what is in flight, then leave with status 0
    ORDER_STOP                   # leave now

cdef struct WorkerSlot:          # 128 bytes
    uint32_t pid
    uint32_t state               # W_*
    uint32_t order               # ORDER_*
    uint32_t epoch               # counts the processes that have had this slot
    uint64_t heartbeat_ns        # CLOCK_MONOTONIC of the last turn
    uint64_t seen_gen            # newest config generation in use
    uint64_t drain_deadline_ns   # CLOCK_MONOTONIC; 0 = none
    uint32_t connections         # downstream, now
    uint32_t active              # exchanges, now
    uint32_t upstreams           # upstream connections, now
    uint32_t lag_us              # from a connection being ready to its turn, as last measured
    uint64_t loops               # reactor turns
    uint64_t mem_bytes           # bytes held by pools and buffers
    uint64_t refused_gen         # newest generation that the worker could not use (e.g. TLS material), else 0
    uint8_t reserved[48]

cdef struct SegHeader:           # 256 bytes
    uint32_t magic
    uint32_t version
    uint32_t workers
    uint32_t log_on              # workers write access-log records
    uint64_t current             # generation << 8 | snapshot slot; one release-store publishes; 0 = none yet
    uint64_t total_bytes
    uint32_t agent_sleeping      # the agent waits on agent_wake: a worker that adds a record pokes it
    uint32_t cells_high          # one past the highest EpCell ever in use: readers touch no page behind it
    uint64_t off_slots
    uint64_t off_stats
    uint64_t off_series
    uint64_t off_peers
    uint64_t off_eprows
    uint64_t off_epcells
    uint64_t off_clrows
    uint64_t off_clcells
    uint64_t off_rings
    uint64_t off_memos
    uint32_t clusters_high       # as cells_high, of ClCell
    uint32_t reserved0
    uint64_t off_buckets
    uint8_t reserved[120]
