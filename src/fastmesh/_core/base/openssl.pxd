"""Every OpenSSL extern of `_core` (L0). OpenSSL 3.0; nothing else includes one of its headers."""
from libc.stdint cimport uint8_t, uint64_t
from libc.time cimport time_t, tm

cdef extern from "openssl/crypto.h" nogil:
    void OPENSSL_cleanse(void *p, size_t n)
    void OPENSSL_free(void *p)

cdef extern from "openssl/provider.h" nogil:
    ctypedef struct OSSL_LIB_CTX:
        pass
    ctypedef struct OSSL_PROVIDER:
        pass
    ctypedef struct OSSL_CORE_HANDLE:
        pass
    ctypedef struct OSSL_PARAM:
        pass
    ctypedef struct OSSL_DISPATCH:
        int function_id
        void (*function)() noexcept nogil
    ctypedef struct OSSL_ALGORITHM:
        const char *algorithm_names
        const char *property_definition
    OSSL_LIB_CTX *OSSL_LIB_CTX_new()
    void OSSL_LIB_CTX_free(OSSL_LIB_CTX *c)
    OSSL_PROVIDER *OSSL_PROVIDER_load(OSSL_LIB_CTX *c, const char *name)
    int OSSL_PROVIDER_add_builtin(OSSL_LIB_CTX *c, const char *name, int (*init)(const OSSL_CORE_HANDLE *, const OSSL_DISPATCH *,
                                  const OSSL_DISPATCH **, void **) noexcept nogil)
    void *OSSL_PROVIDER_get0_provider_ctx(const OSSL_PROVIDER *p)
    const OSSL_ALGORITHM *OSSL_PROVIDER_query_operation(const OSSL_PROVIDER *p, int op, int *no_cache)
    const OSSL_PARAM *OSSL_PROVIDER_gettable_params(const OSSL_PROVIDER *p)
    int OSSL_PROVIDER_get_params(const OSSL_PROVIDER *p, OSSL_PARAM *params)
    int OSSL_PROVIDER_get_capabilities(const OSSL_PROVIDER *p, const char *capability, int (*cb)(const OSSL_PARAM *, void *) noexcept nogil,
                                       void *arg)

cdef extern from "openssl/core_dispatch.h" nogil:
    int OSSL_OP_DECODER, OSSL_OP_KEYMGMT, OSSL_FUNC_PROVIDER_TEARDOWN, OSSL_FUNC_PROVIDER_GETTABLE_PARAMS, OSSL_FUNC_PROVIDER_GET_PARAMS
    int OSSL_FUNC_PROVIDER_QUERY_OPERATION, OSSL_FUNC_PROVIDER_GET_CAPABILITIES

cdef extern from "openssl/sha.h" nogil:
    unsigned char *SHA1(const unsigned char *d, size_t n, unsigned char *md)

cdef extern from "openssl/err.h" nogil:
    unsigned long ERR_get_error()
    unsigned long ERR_peek_error()
    unsigned long ERR_peek_last_error()
    void ERR_clear_error()
    const char *ERR_reason_error_string(unsigned long e)
    int ERR_GET_LIB(unsigned long e)
    int ERR_GET_REASON(unsigned long e)
    int ERR_LIB_PEM, ERR_LIB_SSL

cdef extern from "openssl/params.h" nogil:
    void OSSL_PARAM_free(OSSL_PARAM *p)

cdef extern from "openssl/evp.h" nogil:
    ctypedef struct EVP_PKEY:
        pass
    ctypedef struct EVP_MD:
        pass
    ctypedef struct EVP_MD_CTX:
        pass
    ctypedef struct ENGINE:
        pass
    const EVP_MD *EVP_sha256()
    EVP_MD_CTX *EVP_MD_CTX_new()
    void EVP_MD_CTX_free(EVP_MD_CTX *c)
    int EVP_DigestInit_ex(EVP_MD_CTX *c, const EVP_MD *md, ENGINE *e)
    int EVP_DigestUpdate(EVP_MD_CTX *c, const void *p, size_t n)
    int EVP_DigestFinal_ex(EVP_MD_CTX *c, unsigned char *out, unsigned int *n)
    ctypedef struct EVP_PKEY_CTX:
        pass
    int EVP_PKEY_KEYPAIR
    EVP_PKEY_CTX *EVP_PKEY_CTX_new_from_name(OSSL_LIB_CTX *lib, const char *name, const char *props)
    void EVP_PKEY_CTX_free(EVP_PKEY_CTX *c)
    int EVP_PKEY_todata(const EVP_PKEY *k, int selection, OSSL_PARAM **out)
    int EVP_PKEY_fromdata_init(EVP_PKEY_CTX *c)
    int EVP_PKEY_fromdata(EVP_PKEY_CTX *c, EVP_PKEY **k, int selection, OSSL_PARAM *params)
    const char *EVP_PKEY_get0_type_name(const EVP_PKEY *k)
    void EVP_PKEY_free(EVP_PKEY *k)
    int EVP_PKEY_eq(const EVP_PKEY *a, const EVP_PKEY *b)

cdef extern from "openssl/bio.h" nogil:
    ctypedef struct BIO:
        pass
    ctypedef struct BIO_METHOD:
        pass
    int BIO_CTRL_EOF, BIO_CTRL_FLUSH, BIO_CTRL_DUP, BIO_TYPE_SOURCE_SINK
    BIO *BIO_new(const BIO_METHOD *m)
    BIO *BIO_new_mem_buf(const void *p, int n)
    int BIO_free(BIO *b)
    const BIO_METHOD *BIO_s_mem()
    int BIO_read(BIO *b, void *p, int n)
    int BIO_get_new_index()
    BIO_METHOD *BIO_meth_new(int kind, const char *name)
    int BIO_meth_set_write(BIO_METHOD *m, int (*fn)(BIO *, const char *, int) noexcept nogil)
    int BIO_meth_set_read(BIO_METHOD *m, int (*fn)(BIO *, char *, int) noexcept nogil)
    int BIO_meth_set_ctrl(BIO_METHOD *m, long (*fn)(BIO *, int, long, void *) noexcept nogil)
    void BIO_set_data(BIO *b, void *p)
    void *BIO_get_data(BIO *b)
    void BIO_set_init(BIO *b, int v)
    void BIO_clear_retry_flags(BIO *b)
    void BIO_set_retry_read(BIO *b)
    void BIO_set_retry_write(BIO *b)

cdef extern from "openssl/asn1.h" nogil:
    ctypedef struct ASN1_TIME:
        pass
    ctypedef struct ASN1_STRING:
        pass
    const unsigned char *ASN1_STRING_get0_data(const ASN1_STRING *s)
    int ASN1_STRING_length(const ASN1_STRING *s)
    int ASN1_TIME_to_tm(const ASN1_TIME *t, tm *out)

cdef extern from "time.h" nogil:
    time_t timegm(tm *t)

cdef extern from "openssl/x509v3.h" nogil:
    ctypedef struct X509:
        pass
    ctypedef struct X509_STORE:
        pass
    ctypedef struct X509_STORE_CTX:
        pass
    ctypedef struct GENERAL_NAMES:
        pass
    ctypedef struct GENERAL_NAME:
        int type
    ctypedef struct STACK_X509 "STACK_OF(X509)":
        pass
    int GEN_URI, GEN_DNS, NID_subject_alt_name
    unsigned int EXFLAG_CA, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
    unsigned int KU_KEY_CERT_SIGN, KU_CRL_SIGN
    int X509_V_OK, X509_V_ERR_CERT_REJECTED, X509_V_ERR_OUT_OF_MEM
    unsigned long X509_V_FLAG_PARTIAL_CHAIN
    X509 *X509_new_ex(OSSL_LIB_CTX *lib, const char *props)
    void X509_free(X509 *x)
    int X509_up_ref(X509 *x)
    EVP_PKEY *X509_get0_pubkey(const X509 *x)
    const ASN1_TIME *X509_get0_notAfter(const X509 *x)
    void *X509_get_ext_d2i(const X509 *x, int nid, int *crit, int *idx)
    unsigned int X509_get_extension_flags(X509 *x)
    unsigned int X509_get_key_usage(X509 *x)
    ctypedef struct X509_NAME:
        pass
    unsigned long XN_FLAG_RFC2253
    X509_NAME *X509_get_subject_name(const X509 *x)
    int X509_NAME_print_ex(BIO *b, const X509_NAME *n, int indent, unsigned long flags)
    int X509_digest(const X509 *x, const EVP_MD *kind, unsigned char *md, unsigned int *n)
    int X509_check_host(X509 *x, const char *name, size_t n, unsigned int flags, char **peer)
    int X509_check_ip_asc(X509 *x, const char *ip, unsigned int flags)
    int X509_verify_cert(X509_STORE_CTX *c)
    const char *X509_verify_cert_error_string(long e)
    X509 *X509_STORE_CTX_get0_cert(X509_STORE_CTX *c)
    STACK_X509 *X509_STORE_CTX_get0_chain(X509_STORE_CTX *c)
    int X509_STORE_CTX_get_error(X509_STORE_CTX *c)
    void X509_STORE_CTX_set_error(X509_STORE_CTX *c, int e)
    void *X509_STORE_CTX_get_ex_data(X509_STORE_CTX *c, int idx)
    int X509_STORE_add_cert(X509_STORE *s, X509 *x)
    int X509_STORE_set_flags(X509_STORE *s, unsigned long flags)
    int sk_X509_num(const STACK_X509 *s)
    X509 *sk_X509_value(const STACK_X509 *s, int i)
    int sk_GENERAL_NAME_num(const GENERAL_NAMES *s)
    GENERAL_NAME *sk_GENERAL_NAME_value(const GENERAL_NAMES *s, int i)
    void GENERAL_NAMES_free(GENERAL_NAMES *s)
    ASN1_STRING *GENERAL_NAME_get0_value(const GENERAL_NAME *g, int *kind)

cdef extern from "openssl/pem.h" nogil:
    int PEM_R_NO_START_LINE
    X509 *PEM_read_bio_X509(BIO *b, X509 **x, int (*cb)(char *, int, int, void *) noexcept nogil, void *u)
    EVP_PKEY *PEM_read_bio_PrivateKey(BIO *b, EVP_PKEY **k, int (*cb)(char *, int, int, void *) noexcept nogil, void *u)

cdef extern from "openssl/ssl.h" nogil:
    ctypedef struct SSL:
        pass
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct SSL_METHOD:
        pass
    ctypedef struct SSL_SESSION:
        pass
    int SSL_ERROR_NONE, SSL_ERROR_SSL, SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_SYSCALL, SSL_ERROR_ZERO_RETURN
    int SSL_VERIFY_NONE, SSL_VERIFY_PEER, SSL_VERIFY_FAIL_IF_NO_PEER_CERT
    int TLS1_2_VERSION, TLS1_3_VERSION
    int TLSEXT_TYPE_server_name, TLSEXT_TYPE_supported_versions
    int SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_NOACK, SSL_TLSEXT_ERR_ALERT_FATAL
    int SSL_CLIENT_HELLO_ERROR, SSL_CLIENT_HELLO_SUCCESS
    int SSL_AD_DECODE_ERROR, SSL_AD_INTERNAL_ERROR, SSL_AD_REASON_OFFSET
    int SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE
    int TLS_ST_SW_SESSION_TICKET
    int SSL_TICKET_SUCCESS, SSL_TICKET_SUCCESS_RENEW
    int SSL_TICKET_RETURN_IGNORE_RENEW, SSL_TICKET_RETURN_USE, SSL_TICKET_RETURN_USE_RENEW
    long SSL_MODE_ENABLE_PARTIAL_WRITE, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, SSL_MODE_RELEASE_BUFFERS
    long SSL_SESS_CACHE_OFF, SSL_SESS_CACHE_CLIENT, SSL_SESS_CACHE_NO_INTERNAL
    uint64_t SSL_OP_NO_COMPRESSION, SSL_OP_NO_RENEGOTIATION, SSL_OP_NO_TICKET, SSL_OP_CIPHER_SERVER_PREFERENCE
    uint64_t SSL_OP_IGNORE_UNEXPECTED_EOF

    const SSL_METHOD *TLS_server_method()
    const SSL_METHOD *TLS_client_method()
    SSL_CTX *SSL_CTX_new_ex(OSSL_LIB_CTX *lib, const char *props, const SSL_METHOD *m)
    void SSL_CTX_free(SSL_CTX *c)
    uint64_t SSL_CTX_set_options(SSL_CTX *c, uint64_t o)
    uint64_t SSL_CTX_clear_options(SSL_CTX *c, uint64_t o)
    long SSL_CTX_set_mode(SSL_CTX *c, long m)
    long SSL_CTX_set_session_cache_mode(SSL_CTX *c, long m)
    void SSL_CTX_set_read_ahead(SSL_CTX *c, int on)
    int SSL_CTX_set_min_proto_version(SSL_CTX *c, int v)
    int SSL_CTX_set_max_proto_version(SSL_CTX *c, int v)
    int SSL_CTX_set_cipher_list(SSL_CTX *c, const char *s)
    int SSL_CTX_set_ciphersuites(SSL_CTX *c, const char *s)
    int SSL_CTX_set1_groups_list(SSL_CTX *c, const char *s)
    int SSL_CTX_set1_sigalgs_list(SSL_CTX *c, const char *s)
    int SSL_CTX_use_certificate(SSL_CTX *c, X509 *x)
    int SSL_CTX_add0_chain_cert(SSL_CTX *c, X509 *x)
    int SSL_CTX_use_PrivateKey(SSL_CTX *c, EVP_PKEY *k)
    X509 *SSL_CTX_get0_certificate(const SSL_CTX *c)
    int SSL_CTX_check_private_key(const SSL_CTX *c)
    X509_STORE *SSL_CTX_get_cert_store(const SSL_CTX *c)
    int SSL_CTX_set_default_verify_paths(SSL_CTX *c)
    int SSL_CTX_add_client_CA(SSL_CTX *c, X509 *x)
    void SSL_CTX_set_verify(SSL_CTX *c, int mode, void *cb)
    void SSL_CTX_set_verify_depth(SSL_CTX *c, int depth)
    void SSL_CTX_set_cert_verify_callback(SSL_CTX *c, int (*cb)(X509_STORE_CTX *, void *) noexcept nogil, void *arg)
    int SSL_CTX_set_session_id_context(SSL_CTX *c, const unsigned char *p, unsigned int n)
    long SSL_CTX_set_timeout(SSL_CTX *c, long seconds)
    int SSL_CTX_set_num_tickets(SSL_CTX *c, size_t n)
    long SSL_CTX_set_tlsext_ticket_keys(SSL_CTX *c, void *keys, long n)
    int SSL_CTX_set_session_ticket_cb(SSL_CTX *c, int (*gen)(SSL *, void *) noexcept nogil,
                                      int (*dec)(SSL *, SSL_SESSION *, const unsigned char *, size_t, int, void *) noexcept nogil, void *arg)
    void SSL_CTX_set_client_hello_cb(SSL_CTX *c, int (*cb)(SSL *, int *, void *) noexcept nogil, void *arg)
    void SSL_CTX_set_alpn_select_cb(SSL_CTX *c, int (*cb)(SSL *, const unsigned char **, unsigned char *, const unsigned char *,
                                                          unsigned int, void *) noexcept nogil, void *arg)
    int SSL_CTX_set_alpn_protos(SSL_CTX *c, const unsigned char *p, unsigned int n)
    void SSL_CTX_sess_set_new_cb(SSL_CTX *c, int (*cb)(SSL *, SSL_SESSION *) noexcept nogil)

    SSL *SSL_new(SSL_CTX *c)
    void SSL_free(SSL *s)
    SSL_CTX *SSL_set_SSL_CTX(SSL *s, SSL_CTX *c)
    void SSL_set_bio(SSL *s, BIO *r, BIO *w)
    void SSL_set_accept_state(SSL *s)
    void SSL_set_connect_state(SSL *s)
    int SSL_set_app_data(SSL *s, void *p)
    void *SSL_get_app_data(const SSL *s)
    int SSL_get_ex_data_X509_STORE_CTX_idx()
    int SSL_do_handshake(SSL *s)
    int SSL_read(SSL *s, void *p, int n)
    int SSL_write(SSL *s, const void *p, int n)
    int SSL_shutdown(SSL *s)
    int SSL_get_error(const SSL *s, int r)
    int SSL_get_state(const SSL *s)
    int SSL_free_buffers(SSL *s)
    int SSL_pending(const SSL *s)
    int SSL_has_pending(const SSL *s)
    int SSL_version(const SSL *s)
    int SSL_session_reused(const SSL *s)
    X509 *SSL_get0_peer_certificate(const SSL *s)
    X509 *SSL_get_certificate(const SSL *s)
    SSL_SESSION *SSL_get_session(const SSL *s)
    int SSL_set_session(SSL *s, SSL_SESSION *sess)
    SSL_SESSION *SSL_SESSION_dup(const SSL_SESSION *s)
    void SSL_SESSION_free(SSL_SESSION *s)
    int SSL_SESSION_is_resumable(const SSL_SESSION *s)
    X509 *SSL_SESSION_get0_peer(SSL_SESSION *s)
    long SSL_SESSION_get_time(const SSL_SESSION *s)
    long SSL_SESSION_get_timeout(const SSL_SESSION *s)
    int SSL_SESSION_set1_ticket_appdata(SSL_SESSION *s, const void *p, size_t n)
    int SSL_SESSION_get0_ticket_appdata(SSL_SESSION *s, void **p, size_t *n)
    long SSL_set_tlsext_host_name(SSL *s, const char *name)
    int SSL_client_hello_get0_ext(SSL *s, unsigned int kind, const unsigned char **p, size_t *n)
    uint64_t SSL_set_options(SSL *s, uint64_t o)
    uint64_t SSL_clear_options(SSL *s, uint64_t o)
    int SSL_set_num_tickets(SSL *s, size_t n)
    void SSL_set_verify(SSL *s, int mode, void *cb)
    int SSL_set_min_proto_version(SSL *s, int v)
    void SSL_set_default_read_buffer_len(SSL *s, size_t n)
    void SSL_get0_alpn_selected(const SSL *s, const unsigned char **p, unsigned int *n)
    const char *SSL_get_cipher_name(const SSL *s)
