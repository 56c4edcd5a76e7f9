"""Plays a worker's part in a Segment from Python, and runs the nogil halves of shm/* alone. Snapshots lie before an unreadable page."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastmesh._core.base.sys cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, fm_load_acquire32, fm_store_release, fm_store_release32, mmap, munmap,
)
from fastmesh._core.shm.cells cimport Bucket
from fastmesh._core.shm.layout cimport PEER_SLOTS, RING_BYTES, SERIES_SLOTS
from fastmesh._core.shm.ring cimport LOG_STRS, RING_MAX_RECORD, LogRec, Ring, ring_empty, ring_get, ring_put
from fastmesh._core.shm.segment cimport SegMap, Segment, segment_log, segment_map, snap_current
from fastmesh._core.shm.snapshot cimport (
    CL_AS_CLIENT, CL_H2, Snap, SnapCluster, SnapFault, SnapHeader, SnapListener, SnapStr, fnv64, host_hash, snap_check, snap_cluster, snap_fault,
    snap_listener, snap_open, snap_str,
)
from fastmesh._core.shm.stats cimport (
    HIST_BINS, PeerTable, Series, SeriesKey, SeriesTable, StatsRow, hist_bytes_bin, hist_ms_bin, hist_us_bin, peer_intern, series_get,
    stat_add,
)

cdef enum:
    PAGE = 4096

cdef extern from *:
    """
    #include <sys/mman.h>
    static int shim_protect(void *p, size_t n, int prot) { return mprotect(p, n, prot); }
    """
    int shim_protect(void *p, size_t n, int prot) nogil


cdef class Frozen:
    """A snapshot's bytes, read-only, ending where an unreadable page begins: whoever reads past them crashes."""

    def __cinit__(self, bytes packed):
        self.n = len(packed)
        self.room = (self.n + PAGE - 1) // PAGE * PAGE
        self.map = <char *>mmap(NULL, self.room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if <void *>self.map == MAP_FAILED:
            raise MemoryError
        self.base = self.map + self.room - self.n
        memcpy(self.base, <const char *>packed, self.n)
        if shim_protect(self.map, self.room, PROT_READ) or shim_protect(self.map + self.room, PAGE, 0):
            raise MemoryError

    def __dealloc__(self):
        munmap(self.map, self.room + PAGE)

    def check(self):
        """None, or (section, index, what) of the first fault."""
        cdef SnapFault why
        if snap_fault(self.base, self.n, &why) == 0:
            assert snap_check(self.base, self.n) == 0
            return None
        assert snap_check(self.base, self.n) != 0
        return why.section.decode(), why.index, why.what.decode()

    def cluster(self, name):
        """Whether the binary search finds this cluster, by its name."""
        cdef Snap s
        cdef bytes raw = name.encode()
        cdef const SnapCluster *k
        snap_open(&s, self.base)
        k = snap_cluster(&s, fnv64(raw, len(raw)))
        return None if k == NULL else s.base[k.name.off:k.name.off + k.name.n].decode("utf-8", "replace")

    def upstream(self, name):
        """What a cluster says of its connections."""
        cdef Snap s
        cdef bytes raw = name.encode()
        cdef const SnapCluster *k
        snap_open(&s, self.base)
        k = snap_cluster(&s, fnv64(raw, len(raw)))
        return {"h2": (k.flags & CL_H2) != 0, "as_client": (k.flags & CL_AS_CLIENT) != 0, "max_streams": k.max_streams,
                "tls_policy": k.tls_policy}

    def listener(self, name):
        cdef Snap s
        cdef bytes raw = name.encode()
        cdef const SnapListener *l
        snap_open(&s, self.base)
        l = snap_listener(&s, fnv64(raw, len(raw)))
        if l == NULL:
            return None
        return {"kind": l.kind, "tls_mode": l.tls_mode, "port": l.port, "flags": l.flags, "table": l.table,
                "tls": [(<const uint32_t *>(s.base + l.tls.off))[i] for i in range(l.tls.n)]}


def checksum(bytes data):
    """The checksum field of a snapshot with these bytes."""
    return fnv64(<const char *>data + sizeof(SnapHeader), len(data) - sizeof(SnapHeader))


def host_hash_of(bytes name):
    return host_hash(name, len(name))


def bins(value):
    """The bin of a value in the three histograms: duration, hop, bytes."""
    return hist_ms_bin(value), hist_us_bin(value), hist_bytes_bin(value)


cdef class RingBox:
    """A ring of its own."""
    cdef Ring *r

    def __cinit__(self, uint64_t start=0):
        self.r = <Ring *>calloc(1, sizeof(Ring) + RING_BYTES)
        if self.r == NULL:
            raise MemoryError
        self.r.head = self.r.tail = start

    def __dealloc__(self):
        free(self.r)

    def put(self, bytes record):
        return ring_put(self.r, <const char *>record, len(record))

    def get(self, uint32_t cap=RING_MAX_RECORD):
        cdef char buf[RING_MAX_RECORD]
        n = ring_get(self.r, buf, cap)
        return buf[:n] if n > 0 else n

    def empty(self):
        return ring_empty(self.r)

    def skew(self, int64):
        """Move the write position, as a stray write would."""
        self.r.head += int64

    def scribble(self, uint32_t at, bytes data):
        memcpy(<char *>self.r + sizeof(Ring) + at, <const char *>data, len(data))


cdef class WorkerView:
    """A worker's pointers. mapped=True goes through segment_map (in a forked child: it makes the snapshots read-only there)."""

    def __cinit__(self, Segment seg, int slot, bint mapped=False):
        self.seg = seg
        if mapped:
            if segment_map(seg, slot, &self.m) != 0:
                raise MemoryError
            return
        self.m.hdr = seg.hdr
        self.m.buckets = <Bucket *>(seg.base + seg.hdr.off_buckets)
        self.m.slot = seg.slot_at(slot)
        self.m.stats = seg.stats_at(slot)
        self.m.series = seg.series_at(slot)
        self.m.peers = seg.peers_at(slot)
        self.m.ring = seg.ring_at(slot)
        self.m.rows = seg.rows_at()
        self.m.cells = seg.cells_at()
        self.m.cluster_cells = seg.cluster_cells_at()
        self.m.snaps = seg.snaps
        self.m.workers = seg.workers
        self.m.self_row = slot
        self.m.wake_fd = seg.wake[slot]
        self.m.agent_fd = seg.agent_fd

    def current(self):
        """(generation, node id, whether snap_check takes it, what its header says) of the newest snapshot; None before the first."""
        cdef Snap s
        if snap_current(&self.m, &s) == 0:
            return None
        return (s.generation, s.base[s.h.node_id.off:s.h.node_id.off + s.h.node_id.n].decode(),
                snap_check(s.base, s.h.bytes) == 0, s.h.generation)

    def seen(self, gen):
        fm_store_release(&self.m.slot.seen_gen, gen)

    def state(self, value):
        fm_store_release32(&self.m.slot.state, value)

    def gauges(self, connections, active, upstreams):
        self.m.slot.connections = connections
        self.m.slot.active = active
        self.m.slot.upstreams = upstreams

    def add(self, counter, n):
        stat_add(self.m.stats, counter, n)

    def endpoint(self, cell, *, active=0, connections=0, requests=0, failures=0, connects=0):
        e = &self.m.rows[self.m.self_row].e[<uint32_t>cell]
        e.active = active
        e.connections = connections
        e.requests += requests
        e.failures += failures
        e.connects += connects

    def eject(self, cell, until):
        self.m.cells[<uint32_t>cell].ejected_until_ns = until

    def peer(self, bytes sid):
        return peer_intern(self.m.peers, sid, len(sid))

    def observe(self, *, cluster=0, endpoint=0xffffffff, flags=0, status=200, peer=0, direction=0, security=0, protocol=0, grpc=0,
                us=1):
        """Count one request; the position of its series."""
        cdef SeriesKey k
        cdef Series *s
        memset(&k, 0, sizeof(k))
        k.cluster = cluster
        k.endpoint = endpoint
        k.flags = flags
        k.status = status
        k.peer = peer
        k.direction = direction
        k.security = security
        k.protocol = protocol
        k.grpc = grpc
        s = series_get(self.m.series, self.m.stats, &k)
        s.count += 1
        s.duration.sum += us
        s.duration.bins[hist_ms_bin(us)] += 1
        return s - self.m.series.s

    def log(self, strings, *, status=200, flags=0, peer=b"", port=0, trace=b"\0" * 16, minor=0, grpc=0):
        """An access-log record through the ring, as a worker writes it; the code of segment_log."""
        cdef LogRec r
        cdef bytes text = b"".join(strings)
        memset(&r, 0, sizeof(r))
        n = sizeof(LogRec) + len(text)
        r.bytes = (n + 7) & ~7
        r.status = status
        r.flags = flags
        r.minor = minor
        r.grpc = grpc
        for i in range(LOG_STRS):
            r.str_n[i] = len(strings[i])
        r.peer_port = port
        r.peer_family = {0: 0, 4: 4, 16: 6}[len(peer)]
        memcpy(r.peer_addr, <const char *>peer, len(peer))
        memcpy(r.trace_id, <const char *>trace, 16)
        record = (<char *>&r)[:sizeof(r)] + text
        record += b"\0" * (r.bytes - len(record))
        return segment_log(&self.m, <const char *>record, r.bytes)

    def agent_sleeps(self):
        return fm_load_acquire32(&self.m.hdr.agent_sleeping) != 0

    def die_writing_a_config(self):
        """Write to the snapshots: a worker's mapping must not allow it."""
        (<char *>self.m.snaps)[0] = 1


LIMITS = {"series": <int>SERIES_SLOTS, "peers": <int>PEER_SLOTS, "record": <int>RING_MAX_RECORD, "log_rec": <int>sizeof(LogRec)}
