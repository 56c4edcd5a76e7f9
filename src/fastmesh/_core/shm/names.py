"""What the numbers in shared memory are called (L1). Orders as in shm/stats.pxd and shm/layout.pxd."""

# Counters of a worker, by ST_*.
COUNTER_NAMES = (
    "cx_total", "cx_closed", "cx_overflow", "rq_total", "rq_done", "rq_bad", "rq_no_route",
    "rq_no_cluster", "rq_no_healthy", "rq_overload", "rq_timeout", "rq_retry_reused", "rq_retry",
    "rq_direct", "rq_dc", "rq_upstream_reset", "rq_upstream_protocol", "rq_upstream_truncated",
    "rq_head_timeout", "rq_upgrade", "up_cx_total", "up_cx_reused", "up_cx_fail", "up_cx_timeout",
    "up_cx_idle_closed", "up_cx_idle_timeout", "tls_accept", "tls_accept_fail", "tls_accept_resumed",
    "tls_connect", "tls_connect_fail", "tls_connect_resumed", "tls_peer_cert", "tls_peer_identity",
    "tls_plaintext_refused", "bytes_rx", "bytes_tx", "up_bytes_rx", "up_bytes_tx", "log_dropped",
    "series_overflow", "snap_switch", "snap_refused", "pauses", "pool_full",
    # HTTP/2: ST_H2 and H2N_* of proto/h2_stream.pxd
    "h2_cx", "h2_streams", "h2_refused", "h2_rst_in", "h2_rst_out", "h2_goaway_in", "h2_goaway_out",
    "h2_malformed", "h2_protocol", "h2_flow", "h2_header_list", "h2_rapid_reset", "h2_made_reset",
    "h2_continuations", "h2_pings", "h2_settings", "h2_empty_frames", "h2_updates", "h2_control_out",
    "h2_stalled",
    "up_streams", "up_refused", "rq_grpc",
    # circuit breaking
    "rq_overflow", "rq_pending_overflow", "up_cx_overflow", "rq_retry_overflow",
    "rq_retry_given_up",
    "fault_delays", "fault_aborts",
    # outlier detection
    "od_ejections", "od_ejections_5xx", "od_ejections_gateway", "od_ejections_local", "od_overflow",
    "od_probe_ok", "od_probe_fail",
)
# Response flags as bits (RF_*): Envoy's letters.
FLAG_NAMES = {
    1: "UH", 2: "UF", 4: "UO", 8: "NR", 16: "NC", 32: "URX", 64: "DC", 128: "UT", 256: "UC", 512: "UR",
    1024: "LR", 2048: "DPE", 4096: "UPE", 8192: "OM", 16384: "SI", 32768: "DT", 65536: "UAEX",
    131072: "DI", 262144: "FI",
}
DIRECTION_NAMES = ("inbound", "outbound", "gateway")
SECURITY_NAMES = ("none", "mutual_tls", "tls")
PROTOCOL_NAMES = ("http", "grpc")
STATE_NAMES = ("empty", "starting", "serving", "draining", "gone")
LOG_STRINGS = (
    "method", "path", "authority", "user_agent", "x_forwarded_for", "request_id", "upstream_host",
    "upstream_cluster", "route_name", "details", "peer",
)
