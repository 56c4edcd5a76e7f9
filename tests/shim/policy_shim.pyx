"""Runs policy/* over a frozen snapshot (shm_shim.Frozen): a request in, the decision out, all as Python values."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastmesh._core.base.regex cimport RE_WHY, regex_free, regex_full, regex_new
from fastmesh._core.base.sys cimport fm_clock_ns
from fastmesh._core.policy.lb cimport LB_AHEAD, LbView, lb_pick, rng_next
from fastmesh._core.policy.lb_ewma cimport ewma_cost, ewma_observe
from fastmesh._core.policy.lb_level cimport LevelShares, level_shares
from fastmesh._core.policy.outlier cimport outlier_observe, outlier_release
from fastmesh._core.policy.ratelimit cimport RATE_PROBES, RateState, ratelimit_give_back, ratelimit_key, ratelimit_take
from fastmesh._core.policy.router cimport RouteMatch, router_load, router_match
from fastmesh._core.proto.msg cimport HF_DROP, MF_ABSOLUTE, MF_HTTPS, MSG_MAX_HEADERS, Msg, hdr_id
from fastmesh._core.shm.cells cimport HE_UNHEALTHY, EpRow
from fastmesh._core.shm.layout cimport BUCKETS, CL_CELLS, EP_CELLS
from fastmesh._core.shm.snapshot cimport (
    SNAP_MAX_LEVELS, SNAP_NONE, Snap, SnapCluster, SnapEndpoint, SnapLevel, SnapLimit, SnapStr, fnv64, snap_cluster, snap_open)
from shim.shm_shim cimport Frozen, WorkerView


cdef str text(const Snap *s, SnapStr v):
    return s.base[v.off:v.off + v.n].decode("utf-8", "replace")


cdef class Request:
    """A Msg and the bytes that it borrows."""
    cdef Msg m
    cdef list keep

    def __cinit__(self, host=b"", path=b"/", query=b"", method=b"GET", headers=(), absolute=False, https=False):
        memset(&self.m, 0, sizeof(self.m))
        self.keep = [host, path, query, method]
        self.m.host.p, self.m.host.n = <const char *>(<bytes>host), len(host)
        self.m.path.p, self.m.path.n = <const char *>(<bytes>path), len(path)
        self.m.query.p, self.m.query.n = <const char *>(<bytes>query), len(query)
        self.m.method_name.p, self.m.method_name.n = <const char *>(<bytes>method), len(method)
        self.m.flags = (MF_ABSOLUTE if absolute else 0) | (MF_HTTPS if https else 0)
        if len(headers) > MSG_MAX_HEADERS:
            raise ValueError("too many headers")
        for name, value, *dropped in headers:
            h = &self.m.hdr[self.m.nhdr]
            self.keep += [name, value]
            h.name, h.name_n = <const char *>(<bytes>name), len(name)
            h.value, h.value_n = <const char *>(<bytes>value), len(value)
            h.id = hdr_id(name, len(name))
            h.flags = HF_DROP if dropped else 0
            self.m.nhdr += 1


def header_id(bytes name):
    return hdr_id(name, len(name))


def full_match(bytes pattern, bytes value):
    """Whether RE2 takes the whole value; the reason as a string if the pattern cannot be compiled."""
    cdef char why[RE_WHY]
    cdef void *re = regex_new(pattern, len(pattern), why)
    if re == NULL:
        return why.decode()
    found = regex_full(re, value, len(value))
    regex_free(re)
    return found


cdef class Router:
    """router_load and router_match over one snapshot."""
    cdef Frozen frozen
    cdef Snap s

    def __cinit__(self, Frozen frozen):
        self.frozen = frozen
        snap_open(&self.s, frozen.base)

    def load(self):
        return router_load(&self.s)

    def match(self, Request r, *, table=0, tls=False, port=80, rnd=0):
        """None without a route; else (virtual host, route, cluster or None, bytes of the path that the match covered)."""
        cdef RouteMatch out
        if router_match(&self.s, table, &r.m, tls, port, rnd, &out) != 0:
            return None
        cluster = None
        if out.dest != NULL and out.dest.cluster < self.s.h.clusters.n:
            cluster = text(&self.s, (<const SnapCluster *>(self.s.base + self.s.h.clusters.off))[out.dest.cluster].name)
        return text(&self.s, out.vhost.name), text(&self.s, out.route.name), cluster, out.prefix_n

    def nanoseconds(self, requests, int rounds):
        """Time of one router_match, averaged over rounds through all requests."""
        cdef RouteMatch out
        cdef Request r
        cdef int rc = 0
        cdef uint64_t start, spent = 0
        for r in requests:
            for k in range(2):         # once to warm up
                start = fm_clock_ns()
                for i in range(rounds):
                    rc |= router_match(&self.s, 0, &r.m, False, 80, <uint32_t>i, &out)
                if k:
                    spent += fm_clock_ns() - start
        return spent / (<double>rounds * len(requests)), rc


cdef class Balancer:
    """lb_pick over one snapshot, with the cells of a Segment's worker."""
    cdef Frozen frozen
    cdef WorkerView worker
    cdef Snap s
    cdef uint32_t rr[EP_CELLS]
    cdef uint64_t dice[CL_CELLS]
    cdef uint64_t rng
    cdef LbView view
    cdef bint probe
    cdef uint32_t tried[64]
    cdef LevelShares shares[CL_CELLS]

    def __cinit__(self, Frozen frozen, WorkerView worker, uint64_t seed=1):
        self.frozen = frozen
        self.worker = worker
        snap_open(&self.s, frozen.base)
        memset(self.rr, 0, sizeof(self.rr))
        self.rng = seed
        self.view.cells = worker.m.cells
        self.view.rows = worker.m.rows
        self.view.workers = worker.m.workers
        self.view.self_row = worker.m.self_row
        self.view.rr = self.rr
        memset(self.dice, 0, sizeof(self.dice))
        self.view.dice = self.dice
        self.view.clusters = worker.m.cluster_cells
        self.view.probe = &self.probe
        self.view.tried = self.tried
        memset(self.shares, 0, sizeof(self.shares))
        self.view.shares = self.shares

    def cells(self, name):
        """{endpoint text: cell} of a cluster."""
        cdef bytes raw = name.encode()
        cdef const SnapCluster *k = snap_cluster(&self.s, fnv64(raw, len(raw)))
        cdef const SnapEndpoint *e = <const SnapEndpoint *>(self.s.base + k.endpoints.off)
        return {text(&self.s, e[i].text): e[i].cell for i in range(k.endpoints.n)}

    def pick(self, name, int n=1, *, tried=(), remote=0, now=1, hold=False, key=None):
        """The endpoints that n requests get; hold=True leaves each request in flight; key: the hash that they are told apart by;
        tried: the cells of earlier attempts, the last one first."""
        cdef bytes raw = name.encode()
        cdef const SnapCluster *k = snap_cluster(&self.s, fnv64(raw, len(raw)))
        cdef const SnapEndpoint *e
        self.view.now_ns = now
        self.view.keyed = key is not None
        self.view.key = key or 0
        self.view.remote = remote
        self.view.ntried = len(tried)
        for i, cell in enumerate(tried):
            self.tried[i] = cell
        picked = []
        for _ in range(n):
            e = lb_pick(&self.s, k, &self.view, &self.rng)
            picked.append(None if e == NULL else text(&self.s, e.text))
            if hold and e != NULL:
                self.view.rows[self.view.self_row].e[e.cell].active += 1
        return picked

    def nanoseconds(self, name, int picks, *, uint32_t between=0, keyed=False):
        """Time of one pick, each request held in flight until the one after. `between`: so many bytes of other memory are read
        before each, as the rest of a request does; the clock's own time is taken off."""
        cdef bytes raw = name.encode()
        cdef const SnapCluster *k = snap_cluster(&self.s, fnv64(raw, len(raw)))
        cdef const SnapEndpoint *e = NULL
        cdef EpRow *row = &self.view.rows[self.view.self_row]
        cdef uint64_t start, spent = 0, clock = 0
        cdef uint32_t i
        cdef uint32_t last = SNAP_NONE
        cdef int n
        cdef char *other = <char *>malloc(between + 64)
        memset(other, 0, between + 64)
        self.view.now_ns = fm_clock_ns()
        self.view.keyed = keyed
        self.view.ntried = 0
        with nogil:
            for n in range(picks):
                for i in range(0, between, 64):
                    other[i] += 1
                self.view.key = rng_next(&self.rng)
                if between or n == 0:
                    start = fm_clock_ns()
                    clock += fm_clock_ns() - start
                    start = fm_clock_ns()
                e = lb_pick(&self.s, k, &self.view, &self.rng)
                if between or n == picks - 1:
                    spent += fm_clock_ns() - start
                if last != SNAP_NONE:
                    row.e[last].active -= 1
                last = e.cell
                row.e[last].active += 1
            row.e[last].active -= 1
        free(other)
        return (spent - clock) / <double>picks if between else spent / <double>picks

    def attempt(self, name, *, tried=(), now=1):
        """(endpoint, whether the request is a probe)."""
        self.probe = False
        return self.pick(name, tried=tried, now=now)[0], self.probe

    def result(self, name, uint32_t cell, int kind, *, now=1, probe=False):
        """outlier_observe: what has become of an attempt, 0 success, 1 5xx, 2 gateway, 3 local."""
        cdef bytes raw = name.encode()
        outlier_observe(&self.worker.m, &self.s, snap_cluster(&self.s, fnv64(raw, len(raw))), cell, kind, probe, now)

    def attempts(self, uint32_t cell, uint64_t requests, uint64_t failures):
        """So many attempts of this worker have come to something there."""
        self.view.rows[self.view.self_row].e[cell].requests += requests
        self.view.rows[self.view.self_row].e[cell].failures += failures

    def release(self, uint32_t cell, uint64_t now):
        outlier_release(&self.worker.m, cell, now)

    def observe(self, uint32_t cell, uint64_t now, uint64_t rtt, uint32_t decay_ms=10000):
        """A request took so long at this cell's endpoint."""
        ewma_observe(&self.view.cells[cell], now, decay_ms, rtt)

    def cost(self, uint32_t cell, uint64_t now, uint64_t active=0, uint32_t decay_ms=10000):
        return ewma_cost(&self.view.cells[cell], now, decay_ms, active)

    def since(self, uint32_t cell, uint64_t at):
        """The cell's endpoint came then; 0: it was always there."""
        self.view.cells[cell].since_ns = at

    def is_new(self, uint32_t cell):
        return self.view.cells[cell].since_ns != 0

    def out(self, name, uint32_t n):
        """So many of the cluster's endpoints are counted as ejected."""
        cdef bytes raw = name.encode()
        self.worker.m.cluster_cells[snap_cluster(&self.s, fnv64(raw, len(raw))).cell].ejected = n

    def sick(self, name, uint32_t cell):
        """Health checks have found one of the cluster's endpoints unhealthy."""
        cdef bytes raw = name.encode()
        self.view.cells[cell].health = HE_UNHEALTHY
        self.worker.m.cluster_cells[snap_cluster(&self.s, fnv64(raw, len(raw))).cell].unhealthy += 1

    def table(self, name):
        """The words of a cluster's hash table."""
        cdef bytes raw = name.encode()
        cdef const SnapCluster *k = snap_cluster(&self.s, fnv64(raw, len(raw)))
        cdef const uint32_t *words = <const uint32_t *>(self.s.base + k.hash_table.off)
        return [words[i] for i in range(k.hash_table.n)]

    def pick_all(self, key=None):
        """Pick from every cluster, whatever it is: for snapshots of random bytes that snap_check took."""
        cdef const SnapCluster *k = <const SnapCluster *>(self.s.base + self.s.h.clusters.off)
        cdef const SnapEndpoint *e
        self.view.keyed = key is not None
        self.view.key = key or 0
        found = []
        for i in range(self.s.h.clusters.n):
            e = lb_pick(&self.s, &k[i], &self.view, &self.rng)
            found.append(None if e == NULL else (s_bytes(&self.s, e.text), e.port))
        return found


AHEAD = LB_AHEAD
PROBES = RATE_PROBES


cdef class Limiter:
    """ratelimit_* of one limit, with the buckets of a Segment, as one of its workers."""
    cdef WorkerView worker
    cdef SnapLimit l

    def __cinit__(self, WorkerView worker, *, most, fill, fill_ms, id=1):
        self.worker = worker
        memset(&self.l, 0, sizeof(self.l))
        self.l.id = id
        self.l.most, self.l.fill, self.l.fill_ms = most, fill, fill_ms

    def key(self, uint64_t caller=0):
        return ratelimit_key(&self.l, caller)

    def take(self, uint64_t now, uint64_t caller=0):
        """(whether there was a token, tokens left, ns until full, ns until there is one)."""
        cdef RateState s
        passed = ratelimit_take(&self.worker.m, &self.l, ratelimit_key(&self.l, caller), now, &s)
        return passed, s.left, s.full_ns, s.wait_ns

    def give_back(self, uint64_t caller=0):
        ratelimit_give_back(&self.worker.m, &self.l, ratelimit_key(&self.l, caller))

    def hammer(self, uint64_t now, int times, uint64_t caller=0):
        """How many of so many takes pass, without the GIL: for threads."""
        cdef RateState s
        cdef int n = 0
        cdef uint64_t key = ratelimit_key(&self.l, caller)
        with nogil:
            for i in range(times):
                n += ratelimit_take(&self.worker.m, &self.l, key, now, &s)
        return n

    def spoil(self, uint64_t key, uint64_t full_ns):
        """The place of this key says so."""
        cdef uint64_t at = key & (BUCKETS - RATE_PROBES)
        for i in range(RATE_PROBES):
            if self.worker.m.buckets[at + i].key == key:
                self.worker.m.buckets[at + i].full_ns = full_ns


def shares(levels):
    """level_shares of (endpoints, usable ones, share) each: how much each gets, and how much they can take."""
    cdef SnapLevel l[SNAP_MAX_LEVELS]
    cdef uint32_t well[SNAP_MAX_LEVELS]
    cdef uint16_t upto[SNAP_MAX_LEVELS]
    memset(l, 0, sizeof(l))
    for i, (n, usable, share) in enumerate(levels):
        l[i].n, l[i].share, well[i] = n, share, usable
    available = level_shares(l, len(levels), well, upto)
    return [upto[i] - (upto[i - 1] if i else 0) for i in range(len(levels))], available


cdef bytes s_bytes(const Snap *s, SnapStr v):
    return s.base[v.off:v.off + v.n]
