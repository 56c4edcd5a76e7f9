"""Everything of traffic policy that an ordinary request meets, in fastmesh's and in Envoy's words: a match on
five headers, retries, outlier detection, circuit breaking and a local rate limit, on and never reached.

Owns: that both configs say the same. Must not know: how it is measured.
"""

from __future__ import annotations

from pathlib import Path

from bench.peers.envoy import Envoy
from bench.peers.envoy import Extra as EnvoyExtra
from bench.peers.fastmesh import Extra as FastmeshExtra
from bench.peers.fastmesh import Fastmesh

# What the load sends; with and without policy, so that reading them is in both figures.
HEADERS = (
    "x-tenant: acme",
    "x-client: web/2.4",
    "x-release: canary",
    "x-region: eu-west-1",
    "x-plan: gold-7",
)
LIMITED = "x-ratelimit-limit"  # in the answer: the request took the route with the policy
# Never reached, and not a token less for it: taking one costs the same.
TOKENS, FILL_S = 1_000_000, 1

ROUTES = f"""---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: policy}}
spec:
  hosts: ["*"]
  gateways: [bench]
  http:
  - name: policy
    match:
    - headers:
        x-tenant: {{exact: acme}}
        x-client: {{prefix: web/}}
        x-release: {{exact: canary}}
        x-region: {{exact: eu-west-1}}
        x-plan: {{regex: "gold-[0-9]+"}}
    route:
    - destination: {{host: "@SERVER_NAME@", port: {{number: 80}}}}
    retries: {{attempts: 2, perTryTimeout: 2s, retryOn: "5xx,reset,connect-failure"}}
    timeout: 10s
    localRateLimit:
      tokenBucket: {{maxTokens: {TOKENS}, tokensPerFill: {TOKENS}, fillInterval: {FILL_S}s}}
  - route:
    - destination: {{host: "@SERVER_NAME@", port: {{number: 80}}}}
"""
RULE = """---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: backend}
spec:
  host: @SERVER_NAME@
  trafficPolicy:
    outlierDetection:
      consecutive5xxErrors: 5
      consecutiveGatewayErrors: 5
      interval: 1s
      baseEjectionTime: 30s
      maxEjectionPercent: 50
    connectionPool:
      tcp: {maxConnections: 1024}
      http: {http1MaxPendingRequests: 1024, http2MaxRequests: 1024, maxRetries: 3}
"""

LOCAL_LIMIT = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
ENVOY_ROUTES = """
              - match:
                  prefix: "/"
                  headers:
                  - {name: x-tenant, string_match: {exact: acme}}
                  - {name: x-client, string_match: {prefix: web/}}
                  - {name: x-release, string_match: {exact: canary}}
                  - {name: x-region, string_match: {exact: eu-west-1}}
                  - {name: x-plan, string_match: {safe_regex: {regex: "gold-[0-9]+"}}}
                route:
                  cluster: out
                  timeout: 10s
                  retry_policy: {num_retries: 2, per_try_timeout: 2s, retry_on: "5xx,reset,connect-failure"}
                typed_per_filter_config:
                  envoy.filters.http.local_ratelimit:
                    "@type": @LOCAL_LIMIT@
                    stat_prefix: policy
                    enable_x_ratelimit_headers: DRAFT_VERSION_03"""
ENVOY_BUCKET = f"""
                    token_bucket:
                      {{max_tokens: {TOKENS}, tokens_per_fill: {TOKENS}, fill_interval: {FILL_S}s}}
                    filter_enabled: {{default_value: {{numerator: 100}}}}
                    filter_enforced: {{default_value: {{numerator: 100}}}}"""
ENVOY_FILTERS = """
          - name: envoy.filters.http.local_ratelimit
            typed_config:
              "@type": @LOCAL_LIMIT@
              stat_prefix: in"""
ENVOY_OUTLIER = """
    outlier_detection:
      consecutive_5xx: 5
      consecutive_gateway_failure: 5
      enforcing_consecutive_gateway_failure: 100
      interval: 1s
      base_ejection_time: 30s
      max_ejection_percent: 50"""


def fastmesh(executable: Path | None) -> Fastmesh:
    return Fastmesh(executable, extra=FastmeshExtra(rule=RULE, routes=ROUTES))


def envoy() -> Envoy:
    return Envoy(
        EnvoyExtra(
            routes=(ENVOY_ROUTES + ENVOY_BUCKET).replace("@LOCAL_LIMIT@", LOCAL_LIMIT),
            filters=ENVOY_FILTERS.replace("@LOCAL_LIMIT@", LOCAL_LIMIT),
            limits="max_connections: 1024, max_pending_requests: 1024, max_requests: 1024, max_retries: 3",
            outlier=ENVOY_OUTLIER,
        )
    )
