"""Types of the border file pack.pyx."""

NONE: int

def regex_check(pattern: bytes) -> str | None: ...
def rewrite_check(pattern: bytes, rewrite: bytes) -> str | None: ...
def fnv1a(data: bytes) -> int: ...

_Run = tuple[()] | tuple[int, int]

class Packer:
    def regex(self, pattern: bytes) -> int: ...
    def hdr_op(self, op: int, hid: int, name: str, value: str = "") -> int: ...
    def tls(
        self,
        name: str,
        *,
        key: int,
        flags: int,
        min_version: int,
        cert: bytes,
        private_key: bytes,
        ca: bytes,
        alpn: bytes,
        trust_domain: str,
        hosts: list[str],
        denied: bytes = b"",
    ) -> int: ...
    def endpoint(
        self,
        *,
        family: int,
        addr: bytes,
        port: int,
        flags: int,
        cell: int,
        weight: int,
        text: str,
        workload: str,
        tag: int,
    ) -> int: ...
    def cluster(
        self,
        name: str,
        *,
        service: str,
        endpoints: _Run,
        lb: int,
        flags: int,
        connect_timeout_ms: int,
        idle_timeout_ms: int,
        max_requests_per_connection: int,
        max_connections: int,
        max_streams: int,
        tls: int,
        sni: str,
        sans: list[str],
        tls_policy: int,
        cell: int = 0,
    ) -> int: ...
    def cluster_limits(
        self,
        index: int,
        *,
        max_pending: int = 0,
        max_requests: int = 0,
        max_retries: int = 0,
        budget_ppm: int = 0,
        budget_least: int = 0,
        max_age_ms: int = 0,
    ) -> None: ...
    def cluster_keepalive(self, index: int, *, time_s: int, interval_s: int, probes: int) -> None: ...
    def cluster_hash(self, index: int, *, on: int, name: str, path: str, ttl_s: int, size: int) -> None: ...
    def cluster_health(
        self, index: int, fields: tuple[int, ...], *, path: str, host: str, service: str, expected: list[int]
    ) -> None: ...
    def cluster_outlier(self, index: int, fields: tuple[int, ...], panic_percent: int) -> None: ...
    def cluster_levels(self, index: int, levels: list[tuple[int, int]], hash_size: int = 0) -> None: ...
    def cluster_shape(
        self,
        index: int,
        *,
        decay_ms: int = 0,
        warm_ms: int = 0,
        warm_least_percent: int = 0,
        warm_aggression_centi: int = 100,
    ) -> None: ...
    def action_retry(
        self, index: int, *, statuses: list[int], backoff_base_ms: int, backoff_most_ms: int, flags: int
    ) -> None: ...
    def dest(self, *, cluster: int, weight: int, request_ops: _Run = (), response_ops: _Run = ()) -> int: ...
    def action(
        self,
        kind: int,
        *,
        status: int = 0,
        dests: _Run = (),
        total_weight: int = 0,
        request_ops: _Run = (),
        response_ops: _Run = (),
        rewrite_op: int = 0,
        rewrite_path: str = "",
        rewrite_host: str = "",
        redirect_scheme: str = "",
        redirect_host: str = "",
        redirect_path: str = "",
        redirect_port: int = 0,
        body: bytes = b"",
        timeout_ms: int = 0,
        per_try_timeout_ms: int = 0,
        retries: int = 0,
        retry_on: int = 0,
    ) -> int: ...
    def action_fault(
        self, index: int, *, delay_ppm: int, delay_ms: int, abort_ppm: int, abort_status: int, abort_grpc: int
    ) -> None: ...
    def action_rewrite_regex(self, index: int, regex: int) -> None: ...
    def action_mirrors(self, index: int, mirrors: list[tuple[int, int]]) -> None: ...
    def action_cors(
        self,
        index: int,
        *,
        origins: list[tuple[int, int, str]],
        flags: int,
        methods: str,
        headers: str,
        expose: str,
        max_age: str,
    ) -> None: ...
    def limit(
        self, name: str, *, id: int, most: int, fill: int, fill_ms: int, per: int, who: int = 0
    ) -> int: ...
    def action_limits(self, index: int, limits: _Run) -> None: ...
    def cond(
        self,
        *,
        on: int,
        op: int,
        flags: int,
        hid: int,
        name: str,
        value: str | bytes,
        number: int,
        regex: int = ...,
    ) -> int: ...
    def route(
        self, name: str, *, path_op: int, path: str, flags: int, conds: _Run, action: int, regex: int = ...
    ) -> int: ...
    def vhost(self, name: str, routes: _Run) -> int: ...
    def table(
        self, name: str, hosts: list[tuple[str, bool, int]], any_vhost: int, max_labels: int
    ) -> int: ...
    def listener(
        self, name: str, *, kind: int, tls_mode: int, port: int, flags: int, table: int, tls: list[int]
    ) -> int: ...
    def listener_captured(self, listener: int, tcp_table: int, app_port: int) -> None: ...
    def listener_authz(self, listener: int, authz: int) -> None: ...
    def authz_dim(
        self,
        *,
        on: int,
        negate: bool,
        name: str,
        keys: dict[tuple[int, bytes], list[int]],
        base: list[int],
        words: int,
    ) -> int: ...
    def authz(
        self, *, dims: _Run, names: list[str], http: list[int], flags: int, port: int, upto: list[int]
    ) -> int: ...
    def finish(self, node_id: str, service_cluster: str) -> bytes: ...
