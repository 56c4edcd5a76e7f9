"""OpenSSL's default provider, wrapped (L2). See tls_lib.pxd.

A provider of our own, built in under the name "fastmesh", hands every question on to the default provider and shares its context; only
the answer to "which decoders?" is shortened.
"""
from libc.string cimport memset, strcmp, strstr
from fastmesh._core.base.openssl cimport (
    ERR_clear_error, OSSL_ALGORITHM, OSSL_CORE_HANDLE, OSSL_DISPATCH, OSSL_FUNC_PROVIDER_GETTABLE_PARAMS,
    OSSL_FUNC_PROVIDER_GET_CAPABILITIES, OSSL_FUNC_PROVIDER_GET_PARAMS, OSSL_FUNC_PROVIDER_QUERY_OPERATION,
    OSSL_FUNC_PROVIDER_TEARDOWN, OSSL_LIB_CTX, OSSL_LIB_CTX_free, OSSL_LIB_CTX_new, OSSL_OP_DECODER, OSSL_PARAM, OSSL_PROVIDER,
    OSSL_PROVIDER_add_builtin, OSSL_PROVIDER_get0_provider_ctx, OSSL_PROVIDER_get_capabilities, OSSL_PROVIDER_get_params,
    OSSL_PROVIDER_gettable_params, OSSL_PROVIDER_load, OSSL_PROVIDER_query_operation,
)

cdef enum:
    DECODERS_MAX = 32            # ours are 12 and the end; more are not taken

ctypedef void (*any_fn)() noexcept nogil

cdef OSSL_PROVIDER *inner = NULL
cdef OSSL_LIB_CTX *lib = NULL
cdef bint tried = False
cdef OSSL_ALGORITHM decoders[DECODERS_MAX]
cdef OSSL_DISPATCH dispatch[6]


cdef bint is_wanted(const OSSL_ALGORITHM *a) noexcept nogil:
    """Public keys in certificates, and private keys as PEM in its usual forms; the kinds that TLS knows."""
    cdef const char *kind = a.algorithm_names
    cdef const char *how = a.property_definition
    if strstr(how, "input=pem") != NULL:
        return True
    if strcmp(kind, "EC") != 0 and strcmp(kind, "RSA") != 0 and strcmp(kind, "RSA-PSS") != 0 and strcmp(kind, "ED25519") != 0:
        return False
    return strstr(how, "structure=SubjectPublicKeyInfo") != NULL or strstr(how, "structure=PrivateKeyInfo") != NULL or \
        strstr(how, "structure=type-specific") != NULL


cdef bint take_decoders() noexcept nogil:
    cdef int no_cache = 0, n = 0
    cdef const OSSL_ALGORITHM *a = OSSL_PROVIDER_query_operation(inner, OSSL_OP_DECODER, &no_cache)
    memset(decoders, 0, sizeof(decoders))
    while a != NULL and a.algorithm_names != NULL and n < DECODERS_MAX - 1:
        if is_wanted(a):
            decoders[n] = a[0]
            n += 1
        a += 1
    return n > 0 and no_cache == 0


cdef const OSSL_ALGORITHM *on_query(void *ctx, int op, int *no_cache) noexcept nogil:
    if op == OSSL_OP_DECODER:
        no_cache[0] = 0
        return decoders
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
    if inner == NULL or not take_decoders():
        ERR_clear_error()
        return NULL
    lib = OSSL_LIB_CTX_new()
    if lib != NULL and (OSSL_PROVIDER_add_builtin(lib, "fastmesh", on_init) != 1 or OSSL_PROVIDER_load(lib, "fastmesh") == NULL):
        OSSL_LIB_CTX_free(lib)
        lib = NULL
    ERR_clear_error()
    return lib
