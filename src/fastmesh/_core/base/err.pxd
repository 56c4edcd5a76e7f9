"""Result codes of `_core` (L0). 0 is done, >0 progress (bytes), <0 one of these.

A new code gets a row in proxy/respond.pyx, the only place that turns a code into a status and a flag.
"""

cdef enum:
    FM_OK = 0
    FM_AGAIN = -1          # not enough input yet, or the socket would block: call again on the next event
    FM_EOF = -2            # the peer closed its sending side in order (FIN; with TLS: close_notify)
    FM_ERESET = -3         # the connection died (RST, EPIPE, ...; with TLS also a bare FIN)
    FM_ENOMEM = -4         # a pool or arena is at its cap
    FM_EINTERNAL = -5      # a state that cannot be; counted, the connection is closed
    FM_WANT_WRITE = -6     # TLS: cannot go on before the socket is writable
    # what the peer sent is refused (proto/*): each maps to a status
    FM_EBAD = -20          # 400 malformed
    FM_EFRAMING = -21      # 400 ambiguous or contradictory framing (RFC 9112 6.3): never forwarded
    FM_ETARGET = -22       # 414 target too long
    FM_EHEAD = -23         # 431 head too large or too many fields
    FM_EVERSION = -24      # 505
    FM_ETE = -25           # 501 transfer coding not implemented
    FM_EHOST = -26         # 400 missing, repeated or invalid Host
    FM_EMETHOD = -27       # 501 method not implemented here (CONNECT on HTTP/1.1)
    FM_ECHUNK = -28        # bad chunk size, extension or ending
    FM_ETRAILER = -29      # a trailer that must not be one, or too large
    FM_EEXPECT = -30       # 417 an expectation other than 100-continue
    FM_EHPACK = -31        # HTTP/2: a header block that cannot be decoded (the connection ends: COMPRESSION_ERROR)
    FM_EH2 = -32           # HTTP/2: an error of the connection; GOAWAY has been written
    # TLS (net/tls*)
    FM_ETLS = -40          # handshake or record failure
    FM_ETLS_CERT = -41     # the peer's certificate does not verify
    FM_ETLS_IDENTITY = -42 # it verifies, but the SPIFFE ID (or name) is not one that is expected here
    FM_ETLS_CONFIG = -43   # PEM that cannot be used
    # snapshot and policy
    FM_ESNAP = -50         # a snapshot that does not pass snap_check
    FM_ENOROUTE = -51      # no virtual host or route
    FM_ENOCLUSTER = -52    # the route names a cluster that is not there
    FM_ENOHEALTHY = -53    # the cluster has no endpoint to offer
    FM_EREWRITE = -55      # what the route makes of the path is no path, or too long
    FM_EFULL = -54         # a limit of the cluster or worker is reached
