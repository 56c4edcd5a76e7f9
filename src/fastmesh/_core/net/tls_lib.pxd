"""The OpenSSL library context that our TLS contexts live in (L2): the default provider with fewer decoders.

OpenSSL 3.0 decodes the public key of every certificate that it parses by building a chain out of all decoders of all providers: 85 us a
certificate. Here it finds only those for the kinds of key that occur in TLS: under 20 us, 17 % fewer instructions for a handshake
with client certificates. The algorithms themselves are the default provider's own, unchanged. (The certificate in a ticket is still
parsed in the default context: SSL_SESSION knows no other.)
"""
from fastmesh._core.base.openssl cimport EVP_PKEY, OSSL_LIB_CTX

cdef OSSL_LIB_CTX *tls_lib() noexcept nogil
"""Made at the first call, kept for the life of the process. NULL (it could not be made) is OpenSSL's default context: slower, nothing else."""
cdef EVP_PKEY *tls_lib_key(EVP_PKEY *k) noexcept nogil
"""A private key of the default context, as one of this; NULL: of a kind that is not supported, or out of memory. Both are the caller's."""
