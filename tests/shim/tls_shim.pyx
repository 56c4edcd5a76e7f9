"""Drives net/tls* from tests: contexts and connections as Python objects over any socket's file descriptor."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.net.tls cimport (
    Tls, tls_alpn, tls_client, tls_context_key, tls_error, tls_free, tls_handshake, tls_has_peer_cert, tls_live, tls_peer_id, tls_pending,
    tls_read, tls_resumed, tls_server, tls_shutdown, tls_speaks, tls_version, tls_write,
)
from fastmesh._core.net.tls_ctx cimport (
    TLS_ALPN_H1, TLS_ALPN_H2, TLS_ALPN_LINK, TLS_ALPN_NONE, TLS_ALPN_OTHER, TLS_F_SERVER, TLS_F_TICKETS, TLS_F_VERIFY, TlsCtx, TlsPeer,
    TlsSpec, tls_ctx_by_name, tls_ctx_error, tls_ctx_key, tls_ctx_live, tls_ctx_new, tls_ctx_offers, tls_ctx_ref, tls_ctx_unref,
)
from fastmesh._core.net.tls_peer cimport spiffe_valid
from fastmesh._core.net.tls_session cimport TLS_SESSIONS

AGAIN, EOF, ERESET, EINTERNAL, WANT_WRITE = -1, -2, -3, -5, -6
ETLS, ETLS_CERT, ETLS_IDENTITY = -40, -41, -42
SESSIONS = TLS_SESSIONS
ALPN_NONE, ALPN_H1, ALPN_H2, ALPN_LINK, ALPN_OTHER = TLS_ALPN_NONE, TLS_ALPN_H1, TLS_ALPN_H2, TLS_ALPN_LINK, TLS_ALPN_OTHER


cdef Slice slice_b(bytes b):
    return slice_of(<const char *>b, <size_t>len(b))


cdef Slice *slices(list items) except? NULL:
    cdef Slice *out = <Slice *>malloc((len(items) + 1) * sizeof(Slice))
    cdef Py_ssize_t i
    if out == NULL:
        raise MemoryError
    for i in range(len(items)):
        out[i] = slice_b(items[i])
    return out


class ConfigError(Exception):
    """tls_ctx_new refused: (code, reason)."""


cdef class Ctx:
    cdef TlsCtx *c

    def __init__(self, *, bint server=False, bint verify=True, bint tickets=True, int min_version=0, bytes cert=b"", bytes key=b"",
                 bytes ca=b"", alpn=(), bytes trust_domain=b"", bytes denied=b"", hosts=(), uint64_t ident=0):
        cdef TlsSpec spec
        cdef bytes wire = alpn if isinstance(alpn, bytes) else b"".join(bytes([len(a)]) + a for a in alpn)
        cdef list names = list(hosts)
        cdef char why[512]
        cdef int rc
        spec.key = ident
        spec.flags = (TLS_F_SERVER if server else 0) | (TLS_F_VERIFY if verify else 0) | (TLS_F_TICKETS if tickets else 0)
        spec.min_version = <uint32_t>min_version
        spec.cert = slice_b(cert)
        spec.private_key = slice_b(key)
        spec.ca = slice_b(ca)
        spec.alpn = slice_b(wire)
        spec.trust_domain = slice_b(trust_domain)
        spec.denied = slice_b(denied)
        spec.hosts = slices(names)
        spec.nhosts = <uint32_t>len(names)
        rc = tls_ctx_new(&self.c, &spec)
        free(<void *>spec.hosts)
        if rc != 0:
            raise ConfigError(rc, why[:tls_ctx_error(why, sizeof(why))].decode())

    @property
    def key(self):
        return tls_ctx_key(self.c)

    @property
    def refs(self):
        return self.c.refs

    def offers(self, bytes name):
        return tls_ctx_offers(self.c, <const char *>name, <uint32_t>len(name))

    def close(self):
        tls_ctx_unref(self.c)
        self.c = NULL

    def __dealloc__(self):
        tls_ctx_unref(self.c)


cdef class Conn:
    """One end. Codes come back as they are; read gives bytes or a code. Closing frees; the socket is the test's."""
    cdef Tls *t

    def __dealloc__(self):
        tls_free(self.t)

    def free(self):
        tls_free(self.t)
        self.t = NULL

    def handshake(self):
        return tls_handshake(self.t)

    def read(self, int n=65536):
        cdef bytearray buf = bytearray(n)
        cdef int rc = tls_read(self.t, <char *>buf, <uint32_t>n)
        return bytes(buf[:rc]) if rc > 0 else rc

    def write(self, bytes data):
        return tls_write(self.t, <const char *>data, <uint32_t>len(data))

    def write_at(self, bytes data, size_t at):
        """The rest of data from `at`: a caller that goes on where it stopped, without a copy."""
        return tls_write(self.t, <const char *>data + at, <uint32_t>(len(data) - at))

    def shutdown(self):
        return tls_shutdown(self.t)

    @property
    def pending(self):
        return tls_pending(self.t)

    @property
    def peer_id(self):
        return self.peer_id_in(2048)

    def peer_id_in(self, uint32_t cap):
        cdef char out[2048]
        return out[:tls_peer_id(self.t, out, cap)].decode()

    @property
    def peer_cert(self):
        return tls_has_peer_cert(self.t)

    @property
    def resumed(self):
        return tls_resumed(self.t)

    @property
    def alpn(self):
        cdef char out[256]
        return out[:tls_alpn(self.t, out, sizeof(out))]

    @property
    def speaks(self):
        return tls_speaks(self.t)

    @property
    def version(self):
        return tls_version(self.t)

    @property
    def context_key(self):
        return tls_context_key(self.t)

    @property
    def error(self):
        cdef char out[256]
        return out[:tls_error(self.t, out, sizeof(out))].decode()


def server(contexts, int fd):
    cdef list items = list(contexts)
    cdef TlsCtx **by_sni = <TlsCtx **>malloc(len(items) * sizeof(TlsCtx *))
    cdef Conn conn = Conn.__new__(Conn)
    cdef Py_ssize_t i
    for i in range(len(items)):
        by_sni[i] = (<Ctx?>items[i]).c
    conn.t = tls_server(by_sni, <uint32_t>len(items), fd)
    free(by_sni)
    if conn.t == NULL:
        raise MemoryError
    return conn


def client(Ctx ctx, int fd, *, bytes sni=b"", sans=None, bytes host=b"", uint64_t session_key=0):
    """sans None: no SAN is demanded; a list, also an empty one: one of these."""
    cdef TlsPeer peer
    cdef list items = list(sans or ())
    cdef Conn conn = Conn.__new__(Conn)
    peer.sans = slices(items)
    peer.n = <uint32_t>len(items)
    peer.verify_san = sans is not None
    peer.host = slice_b(host)
    conn.t = tls_client(ctx.c, fd, <const char *>sni, <uint32_t>len(sni), &peer, session_key)
    free(<void *>peer.sans)
    if conn.t == NULL:
        raise MemoryError
    return conn


def choose(contexts, bytes name):
    """Which of the contexts the SNI name selects: its index."""
    cdef list items = list(contexts)
    cdef TlsCtx **by_sni = <TlsCtx **>malloc(len(items) * sizeof(TlsCtx *))
    cdef TlsCtx *found
    cdef Py_ssize_t i
    for i in range(len(items)):
        by_sni[i] = (<Ctx?>items[i]).c
    found = tls_ctx_by_name(by_sni, <uint32_t>len(items), slice_b(name))
    i = 0
    while by_sni[i] != found:
        i += 1
    free(by_sni)
    return i


def spiffe(bytes text):
    """The trust domain of a valid SPIFFE ID, else None."""
    cdef Slice domain
    return domain.p[:domain.n] if spiffe_valid(slice_b(text), &domain) else None


def live():
    """(connections, contexts) that exist."""
    return tls_live(), tls_ctx_live()
