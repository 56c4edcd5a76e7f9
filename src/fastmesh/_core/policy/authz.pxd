"""Who may do what (L2): authorization policies of a listener, compiled (SnapAuthz). Reads snapshot and request only.

A term is one way of a rule to match. Each attribute (SnapAuthzDim) says by look-ups which terms may hold; what is left after all of them
holds. So the cost goes with the attributes that rules ask for, not with the rules: a bit is all that a rule costs.

An attribute that a request does not have fits no key: what asks for it does not hold, what excludes something does (as Envoy's matchers).
A connection without HTTP (q.m NULL): rules that ask for what only HTTP has allow nothing, and are otherwise taken to ask for the rest alone:
they deny more (Istio's "missing attributes are treated as matches").
"""
from libc.stdint cimport uint8_t, uint32_t
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proto.msg cimport Msg
from fastmesh._core.shm.authztab cimport SnapAuthz
from fastmesh._core.shm.snapshot cimport Snap

cdef struct AuthzAddr:
    uint8_t family               # 4, 6; 0: not known
    uint8_t a[16]                # network order

cdef struct AuthzReq:
    const Msg *m                 # NULL: a connection
    Slice path                   # of m, decoded
    Slice identity               # SPIFFE ID of the peer, as its certificate says; empty: none
    AuthzAddr source
    AuthzAddr remote
    AuthzAddr dest
    uint32_t port                # of the destination

cdef struct AuthzVerdict:
    bint denied
    bint audited
    bint dry_allowed             # what the policies that are only tried would say, if there are any
    bint dry_denied
    Slice rule                   # of the DENY that fits, or of the ALLOW; empty: none
    Slice audit                  # ... of the AUDIT
    Slice dry                    # ... of the tried ones: of the DENY, or of the ALLOW

cdef void authz_judge(const Snap *s, const SnapAuthz *a, const AuthzReq *q, AuthzVerdict *out) noexcept nogil
"""The verdict. What cannot be judged (a value that is longer than its scratch) is denied. The slices are the snapshot's."""
