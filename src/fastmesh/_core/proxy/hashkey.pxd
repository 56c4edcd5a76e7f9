"""What a request is told apart by in consistent hashing (L3): the hash of a header, a cookie, a query parameter or the client's address."""
from libc.stdint cimport uint64_t
from fastmesh._core.net.sock cimport Addr
from fastmesh._core.proto.msg cimport Msg
from fastmesh._core.proxy.ctx cimport Exchange
from fastmesh._core.shm.snapshot cimport SnapCluster

cdef uint64_t source_hash(const Addr *a, bint port) noexcept nogil
"""Of an address, the port with it or not."""
cdef int hashkey_take(Exchange *ex, const Msg *m, const SnapCluster *c) noexcept nogil
"""Set ex.hash_key and XF_HASHED from the head that goes upstream, when the cluster wants it and the request has it. A cookie that is missing
and has a TTL is made: the answer brings it to the client. FM_OK, or FM_EHEAD, FM_ENOMEM: there was no room for that."""
