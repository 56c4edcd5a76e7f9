"""The OpenSSL library context that our TLS contexts live in (L2): the default provider with fewer decoders.

OpenSSL 3.0 decodes the public key of every certificate that it parses by building a chain out of all decoders of all providers: 85 us a
certificate, a third of a handshake with client certificates (also a ticket is parsed again while it is made). Here it finds only those
for the kinds of key that occur in TLS: 25-30 us. The algorithms themselves are the default provider's own, unchanged.
"""
from fastmesh._core.base.openssl cimport OSSL_LIB_CTX

cdef OSSL_LIB_CTX *tls_lib() noexcept nogil
"""Made at the first call, kept for the life of the process. NULL (it could not be made) is OpenSSL's default context: slower, nothing else."""
