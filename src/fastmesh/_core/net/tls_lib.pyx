"""OpenSSL's default provider, wrapped (L2). See tls_lib.pxd.

A provider of our own, built in under the name "fastmesh", hands every question on to the default provider and shares its context; only
the answers to "which decoders?" and "which kinds of key?" are shortened.
"""
from libc.string cimport memset, strlen, strncmp, strstr
from fastmesh._core.base.openssl cimport (
    ERR_clear_error, OSSL_ALGORITHM, OSSL_CORE_HANDLE, OSSL_DISPATCH, OSSL_FUNC_PROVIDER_GETTABLE_PARAMS,
    OSSL_FUNC_PROVIDER_GET_CAPABILITIES, OSSL_FUNC_PROVIDER_GET_PARAMS, OSSL_FUNC_PROVIDER_QUERY_OPERATION,
    OSSL_FUNC_PROVIDER_TEARDOWN, OSSL_LIB_CTX, OSSL_LIB_CTX_free, OSSL_LIB_CTX_new, OSSL_OP_DECODER, OSSL_OP_KEYMGMT, OSSL_PARAM, OSSL_PROVIDER,
    OSSL_PROVIDER_add_builtin, OSSL_PROVIDER_get0_provider_ctx, OSSL_PROVIDER_get_capabilities, OSSL_PROVIDER_get_params,
    OSSL_PROVIDER_gettable_params, OSSL_PROVIDER_load, OSSL_PROVIDER_query_operation, EVP_PKEY, EVP_PKEY_CTX, EVP_PKEY_CTX_free,
    EVP_PKEY_CTX_new_from_name, EVP_PKEY_KEYPAIR, EVP_PKEY_fromdata, EVP_PKEY_fromdata_init, EVP_PKEY_get0_type_name,
    EVP_PKEY_todata, OSSL_PARAM_free,
)

cdef enum:
    TAKEN_MAX = 16               # ours are 4 and 6, and the end; more are not taken

ctypedef void (*any_fn)() noexcept nogil

cdef OSSL_PROVIDER *inner = NULL
cdef OSSL_LIB_CTX *lib = NULL
cdef bint tried = False
cdef OSSL_ALGORITHM decoders[TAKEN_MAX]
cdef OSSL_ALGORITHM kinds[TAKEN_MAX]
cdef OSSL_DISPATCH dispatch[6]


cdef bint is_named(const OSSL_ALGORITHM *a, const char *name) noexcept nogil:
    """Names are a list with colons: the first is the usual one."""
    cdef size_t n = strlen(name)
    return strncmp(a.algorithm_names, name, n) == 0 and (a.algorithm_names[n] == 0 or a.algorithm_names[n] == 58)


cdef bint signs(const OSSL_ALGORITHM *a) noexcept nogil:
    """The kinds of key that certificates of TLS have."""
    return is_named(a, "EC") or is_named(a, "RSA") or is_named(a, "RSA-PSS") or is_named(a, "ED25519")


cdef bint is_wanted(const OSSL_ALGORITHM *a, int op) noexcept nogil:
    """Decoders of public keys in certificates (a private key is decoded in the default context); keys that sign, X25519, and
    HMAC, whose key OpenSSL makes for the binder of a resumed session."""
    if op == OSSL_OP_DECODER:
        return signs(a) and strstr(a.property_definition, "structure=SubjectPublicKeyInfo") != NULL
    return signs(a) or is_named(a, "X25519") or is_named(a, "HMAC")


cdef bint take(int op, OSSL_ALGORITHM *to) noexcept nogil:
    cdef int no_cache = 0, n = 0
    cdef const OSSL_ALGORITHM *a = OSSL_PROVIDER_query_operation(inner, op, &no_cache)
    memset(to, 0, TAKEN_MAX * sizeof(OSSL_ALGORITHM))
    while a != NULL and a.algorithm_names != NULL and n < TAKEN_MAX - 1:
        if is_wanted(a, op):
            to[n] = a[0]
            n += 1
        a += 1
    return n > 0 and no_cache == 0


cdef const OSSL_ALGORITHM *on_query(void *ctx, int op, int *no_cache) noexcept nogil:
    no_cache[0] = 0
    if op == OSSL_OP_DECODER:
        return decoders
    if op == OSSL_OP_KEYMGMT:
        return kinds
    return OSSL_PROVIDER_query_operation(inner, op, no_cache)


cdef const OSSL_PARAM *on_gettable(void *ctx) noexcept nogil:
    return OSSL_PROVIDER_gettable_params(inner)


cdef int on_params(void *ctx, OSSL_PARAM *params) noexcept nogil:
    return OSSL_PROVIDER_get_params(inner, params)


cdef int on_capabilities(void *ctx, const char *name, int (*cb)(const OSSL_PARAM *, void *) noexcept nogil, void *arg) noexcept nogil:
    return OSSL_PROVIDER_get_capabilities(inner, name, cb, arg)


cdef void on_teardown(void *ctx) noexcept nogil:
    """The context is the default provider's: not ours to end."""


cdef int on_init(const OSSL_CORE_HANDLE *core, const OSSL_DISPATCH *offered, const OSSL_DISPATCH **out, void **ctx) noexcept nogil:
    memset(dispatch, 0, sizeof(dispatch))                 # the last entry stays 0: the end
    dispatch[0].function_id = OSSL_FUNC_PROVIDER_QUERY_OPERATION
    dispatch[0].function = <any_fn>on_query
    dispatch[1].function_id = OSSL_FUNC_PROVIDER_GETTABLE_PARAMS
    dispatch[1].function = <any_fn>on_gettable
    dispatch[2].function_id = OSSL_FUNC_PROVIDER_GET_PARAMS
    dispatch[2].function = <any_fn>on_params
    dispatch[3].function_id = OSSL_FUNC_PROVIDER_GET_CAPABILITIES
    dispatch[3].function = <any_fn>on_capabilities
    dispatch[4].function_id = OSSL_FUNC_PROVIDER_TEARDOWN
    dispatch[4].function = <any_fn>on_teardown
    out[0] = dispatch
    ctx[0] = OSSL_PROVIDER_get0_provider_ctx(inner)
    return 1


cdef OSSL_LIB_CTX *tls_lib() noexcept nogil:
    global inner, lib, tried
    if tried:
        return lib
    tried = True
    inner = OSSL_PROVIDER_load(NULL, "default")
    if inner == NULL or not take(OSSL_OP_DECODER, decoders) or not take(OSSL_OP_KEYMGMT, kinds):
        ERR_clear_error()
        return NULL
    lib = OSSL_LIB_CTX_new()
    if lib != NULL and (OSSL_PROVIDER_add_builtin(lib, "fastmesh", on_init) != 1 or OSSL_PROVIDER_load(lib, "fastmesh") == NULL):
        OSSL_LIB_CTX_free(lib)
        lib = NULL
    ERR_clear_error()
    return lib


cdef EVP_PKEY *tls_lib_key(EVP_PKEY *k) noexcept nogil:
    cdef OSSL_PARAM *data = NULL
    cdef EVP_PKEY *ours = NULL
    cdef EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_from_name(tls_lib(), EVP_PKEY_get0_type_name(k), NULL)
    if c != NULL and EVP_PKEY_todata(k, EVP_PKEY_KEYPAIR, &data) == 1 and EVP_PKEY_fromdata_init(c) == 1:
        EVP_PKEY_fromdata(c, &ours, EVP_PKEY_KEYPAIR, data)
    OSSL_PARAM_free(data)
    EVP_PKEY_CTX_free(c)
    return ours
