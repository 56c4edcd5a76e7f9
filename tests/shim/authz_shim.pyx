"""Runs policy/authz over a frozen snapshot: a request in, the verdict out."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastmesh._core.base.sys cimport fm_clock_ns
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.policy.authz cimport AuthzAddr, AuthzReq, AuthzVerdict, authz_judge
from fastmesh._core.proto.pathnorm cimport PATH_REFUSED, PATH_SAME, path_normalize
from fastmesh._core.proto.msg cimport HF_DROP, MSG_MAX_HEADERS, Msg, hdr_id
from fastmesh._core.shm.authztab cimport SnapAuthz
from fastmesh._core.shm.snapshot cimport SNAP_NONE, Snap, SnapListener, snap_at, snap_open
from shim.shm_shim cimport Frozen


cdef void address(AuthzAddr *a, bytes raw):
    a.family = 4 if len(raw) == 4 else 6 if len(raw) == 16 else 0
    memcpy(a.a, <const char *>raw, len(raw))


cdef str text(Slice v):
    return v.p[:v.n].decode() if v.n else ""


cdef class Judge:
    """The policies of the first listener of a snapshot."""
    cdef Frozen frozen
    cdef Snap s
    cdef const SnapAuthz *a

    def __cinit__(self, Frozen frozen):
        self.frozen = frozen
        snap_open(&self.s, frozen.base)
        l = <const SnapListener *>snap_at(&self.s, self.s.h.listeners.off)
        if l.authz == SNAP_NONE:
            raise ValueError("no policies")
        self.a = <const SnapAuthz *>snap_at(&self.s, self.s.h.authz.off) + l.authz

    def judge(self, *, http=True, host=b"", path=b"/", method=b"GET", headers=(), identity=b"", source=b"", remote=b"", dest=b"", port=80,
              int rounds=0):
        """{"denied", "rule", "audit", "dry", "dry_allowed", "dry_denied"}; with rounds, nanoseconds for each."""
        cdef Msg m
        cdef AuthzReq q
        cdef AuthzVerdict v
        cdef uint64_t start
        cdef int i
        memset(&m, 0, sizeof(m))
        memset(&q, 0, sizeof(q))
        m.host = slice_of(<const char *>(<bytes>host), len(host))
        m.path = slice_of(<const char *>(<bytes>path), len(path))
        m.method_name = slice_of(<const char *>(<bytes>method), len(method))
        for name, value, *dropped in headers:
            h = &m.hdr[m.nhdr]
            h.name, h.name_n = <const char *>(<bytes>name), len(name)
            h.value, h.value_n = <const char *>(<bytes>value), len(value)
            h.id = hdr_id(name, len(name))
            h.flags = HF_DROP if dropped else 0
            m.nhdr += 1
        q.m = &m if http else NULL
        q.path = m.path
        q.identity = slice_of(<const char *>(<bytes>identity), len(identity))
        address(&q.source, source)
        address(&q.remote, remote)
        address(&q.dest, dest)
        q.port = port
        if rounds:
            start = fm_clock_ns()
            for i in range(rounds):
                authz_judge(&self.s, self.a, &q, &v)
            return (fm_clock_ns() - start) / rounds
        authz_judge(&self.s, self.a, &q, &v)
        return {
            "denied": bool(v.denied), "rule": text(v.rule), "audit": text(v.audit) if v.audited else None, "dry": text(v.dry),
            "dry_allowed": bool(v.dry_allowed), "dry_denied": bool(v.dry_denied),
        }


def normalize(bytes path):
    """(sent, judged), or None: it is refused."""
    cdef Slice sent, judged
    room = bytearray(2 * len(path) + 1)
    cdef char *out = room
    if path_normalize(slice_of(<const char *>path, len(path)), out, &sent, &judged) == PATH_REFUSED:
        return None
    return sent.p[:sent.n], judged.p[:judged.n]
