"""The config of test_every_field.py, and what proves the fields that it does not."""

from __future__ import annotations

from typing import Any

MATCHES = {
    "exact": "uri: {exact: /exact}",
    "prefix": "uri: {prefix: /prefix/}",
    "regex": 'uri: {regex: "/re/[0-9]+"}',
    "case": "uri: {exact: /Case}\n    ignoreUriCase: true",
    "scheme": "uri: {exact: /s}\n    scheme: {exact: http}",
    "method": "uri: {exact: /m}\n    method: {exact: PUT}",
    "authority": "uri: {exact: /a}\n    authority: {prefix: match.}",
    "headers": "uri: {exact: /h}\n    headers: {x-user: {exact: jo}, x-any: {}}",
    "query": 'uri: {exact: /q}\n    queryParams: {v: {regex: "[0-9]+"}}',
    "without": 'uri: {exact: /w}\n    withoutHeaders: {x-no: {exact: "1"}}',
    "port": "uri: {exact: /p}\n    port: %d",
    "gateways": "uri: {exact: /g}\n    gateways: [gw]",
    "elsewhere": "uri: {exact: /g2}\n    gateways: [mesh]",
}
TO_A = "route: [{destination: {host: a.local, port: {number: 80}}}]"
ROUTES = {
    "mirror": f"- mirror: {{host: b.local}}\n  mirrorPercentage: {{value: 100}}\n  {TO_A}",
    "mirrors": f"- mirrors: [{{destination: {{host: b.local}}, percentage: {{value: 100}}}}]\n  {TO_A}",
    "mirror3": f"- mirror: {{host: b.local}}\n  mirrorPercent: 100\n  {TO_A}",
    "mirror4": f"- mirror: {{host: b.local}}\n  mirror_percent: 100\n  {TO_A}",
    "cors": f"""
- corsPolicy:
    allowOrigins: [{{exact: "https://good.example"}}]
    allowMethods: [GET, PUT]
    allowHeaders: [x-one, x-two]
    exposeHeaders: [x-three]
    maxAge: 90s
    allowCredentials: true
    unmatchedPreflights: IGNORE
  {TO_A}
""",
    "cors-old": f'- corsPolicy: {{allowOrigin: ["https://old.example"]}}\n  {TO_A}',
    "redirect": """
- match: [{uri: {exact: /uri}}]
  redirect: {uri: /new, authority: other.example, port: 8443, scheme: https, redirectCode: 308}
- match: [{uri: {prefix: /derived}}]
  redirect: {derivePort: FROM_REQUEST_PORT, prefixRewrite: /made}
""",
    "rewrite": f"""
- match: [{{uri: {{prefix: /old/}}}}]
  rewrite: {{uri: /new/, authority: made.example}}
  {TO_A}
- match: [{{uri: {{prefix: /re/}}}}]
  rewrite: {{uriRegexRewrite: {{match: "/re/([a-z]+)/([a-z]+)", rewrite: '/\\2/\\1'}}}}
  {TO_A}
""",
    "headers": r"""
- headers:
    request: {set: {x-set: "1"}, add: {x-add: "2"}, remove: [x-gone]}
    response: {set: {x-app: made}, add: {x-more: "3"}, remove: [date]}
  route:
  - destination: {host: a.local, port: {number: 80}}
    headers: {request: {set: {x-of-destination: "4"}}, response: {add: {x-back: "5"}}}
""",
    "direct": """
- match: [{uri: {exact: /string}}]
  name: of-string
  directResponse: {status: 418, body: {string: tea}}
- directResponse: {status: 200, body: {bytes: AAEC}}
""",
    "timeout": f"- timeout: 150ms\n  {TO_A}",
    "retries": f"- retries: {{attempts: 2, retryOn: 5xx, backoff: 1ms}}\n  {TO_A}",
    "per-try": f"- retries: {{attempts: 1, retryOn: 5xx, perTryTimeout: 100ms, backoff: 1ms}}\n  {TO_A}",
    "remote": (
        f"- retries: {{attempts: 1, retryRemoteLocalities: true, retryIgnorePreviousHosts: false}}\n  {TO_A}"
    ),
    "delay": f"- fault: {{delay: {{fixedDelay: 200ms, percentage: {{value: 100}}}}}}\n  {TO_A}",
    "delay-old": f"- fault: {{delay: {{fixedDelay: 200ms, percent: 100}}}}\n  {TO_A}",
    "abort": f"- fault: {{abort: {{httpStatus: 555, percentage: {{value: 100}}}}}}\n  {TO_A}",
    "abort-grpc": f'- fault: {{abort: {{grpcStatus: "14", percentage: {{value: 100}}}}}}\n  {TO_A}',
    "limit": f"""
- localRateLimit:
    tokenBucket: {{maxTokens: 2, tokensPerFill: 1, fillInterval: 3600s}}
    perIdentity: {{maxTokens: 1, fillInterval: 3600s}}
  {TO_A}
""",
    "weights": """
- route:
  - {destination: {host: ab.local, subset: a, port: {number: 80}}, weight: 100}
  - {destination: {host: ab.local, subset: b, port: {number: 80}}, weight: 0}
""",
}
# Services of their own, each with a DestinationRule.
HASHES = {
    "hash-header": "{httpHeaderName: x-key, minimumRingSize: 64}",
    "hash-query": "{httpQueryParameterName: key, ringHash: {minimumRingSize: 128}}",
    "hash-cookie": "{httpCookie: {name: sticky, path: /p, ttl: 60s}, maglev: {tableSize: 251}}",
    "hash-source": "{useSourceIp: true}",
}
FULL = """
loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 7s, minimumPercent: 20, aggression: 1.5}}
connectionPool:
  tcp:
    maxConnections: 11
    connectTimeout: 3s
    maxConnectionDuration: 77s
    tcpKeepalive: {probes: 3, time: 61s, interval: 5s}
  http:
    http1MaxPendingRequests: 12
    http2MaxRequests: 13
    maxRequestsPerConnection: 14
    maxRetries: 15
    idleTimeout: 16s
    h2UpgradePolicy: UPGRADE
    maxConcurrentStreams: 17
outlierDetection:
  splitExternalLocalOriginErrors: true
  consecutiveLocalOriginFailures: 2
  consecutiveGatewayErrors: 3
  consecutive5xxErrors: 4
  interval: 5s
  baseEjectionTime: 6s
  maxEjectionPercent: 70
  minHealthPercent: 30
  successRate: {minimumHosts: 8, requestVolume: 9, stdevFactor: 2500}
  failurePercentage: {threshold: 60, minimumHosts: 4, requestVolume: 44}
healthChecks:
  interval: 1000s
  timeout: 2s
  unhealthyThreshold: 5
  healthyThreshold: 6
  intervalJitterPercent: 7
  altPort: 9
  httpHealthCheck: {path: /hc, host: h.example, expectedStatuses: [{start: 200, end: 300}]}
retryBudget: {percent: 25, minRetryConcurrency: 7}
"""
OLD = """
loadBalancer: {simple: LEAST_REQUEST, warmupDurationSecs: 8s}
connectionPool: {http: {useClientProtocol: true}}
outlierDetection: {consecutiveErrors: 9}
healthChecks: {interval: 1000s, timeout: 2s, grpcHealthCheck: {serviceName: s, authority: g.example}}
portLevelSettings:
- port: {number: 80}
  loadBalancer: {simple: RANDOM}
  connectionPool: {http: {useClientProtocol: true}}
  outlierDetection: {consecutiveErrors: 9}
  healthChecks: {interval: 1000s, timeout: 2s, grpcHealthCheck: {serviceName: s, authority: g.example}}
"""
# Field -> (service, where /explain shows it in the cluster, what it shows there).
SHOWN: dict[str, tuple[str, str, Any]] = {
    "LoadBalancerSettings.simple": ("full", "balancing", "ROUND_ROBIN"),
    "TrafficPolicy.loadBalancer": ("full", "balancing", "ROUND_ROBIN"),
    "LoadBalancerSettings.warmup": ("full", "warm.ms", 7000),
    "WarmupConfiguration.duration": ("full", "warm.ms", 7000),
    "WarmupConfiguration.minimumPercent": ("full", "warm.least_percent", 20),
    "WarmupConfiguration.aggression": ("full", "warm.aggression", 1.5),
    "TrafficPolicy.connectionPool": ("full", "limits.max_connections", 11),
    "ConnectionPoolSettings.tcp": ("full", "limits.max_connections", 11),
    "TCPSettings.maxConnections": ("full", "limits.max_connections", 11),
    "TCPSettings.connectTimeout": ("full", "connection.connect_timeout_ms", 3000),
    "TCPSettings.maxConnectionDuration": ("full", "connection.max_age_ms", 77_000),
    "TCPSettings.tcpKeepalive": ("full", "connection.keepalive.probes", 3),
    "TcpKeepalive.probes": ("full", "connection.keepalive.probes", 3),
    "TcpKeepalive.time": ("full", "connection.keepalive.time_s", 61),
    "TcpKeepalive.interval": ("full", "connection.keepalive.interval_s", 5),
    "ConnectionPoolSettings.http": ("full", "limits.max_pending", 12),
    "HTTPSettings.http1MaxPendingRequests": ("full", "limits.max_pending", 12),
    "HTTPSettings.http2MaxRequests": ("full", "limits.max_requests", 13),
    "HTTPSettings.maxRequestsPerConnection": ("full", "connection.max_requests", 14),
    "HTTPSettings.maxRetries": ("full", "limits.max_retries", 15),
    "HTTPSettings.idleTimeout": ("full", "connection.idle_timeout_ms", 16_000),
    "HTTPSettings.h2UpgradePolicy": ("full", "protocol", "h2"),
    "HTTPSettings.maxConcurrentStreams": ("full", "connection.max_streams", 17),
    "HTTPSettings.useClientProtocol": ("old", "protocol", "as_client"),
    "TrafficPolicy.outlierDetection": ("full", "outlier_detection.split", True),
    "OutlierDetection.splitExternalLocalOriginErrors": ("full", "outlier_detection.split", True),
    "OutlierDetection.consecutiveLocalOriginFailures": ("full", "outlier_detection.consecutive_local", 2),
    "OutlierDetection.consecutiveGatewayErrors": ("full", "outlier_detection.consecutive_gateway", 3),
    "OutlierDetection.consecutive5xxErrors": ("full", "outlier_detection.consecutive_5xx", 4),
    "OutlierDetection.consecutiveErrors": ("old", "outlier_detection.consecutive_gateway", 9),
    "OutlierDetection.interval": ("full", "outlier_detection.interval_ms", 5000),
    "OutlierDetection.baseEjectionTime": ("full", "outlier_detection.base_ms", 6000),
    "OutlierDetection.maxEjectionPercent": ("full", "outlier_detection.max_percent", 70),
    "OutlierDetection.minHealthPercent": ("full", "outlier_detection.min_health_percent", 30),
    "OutlierDetection.successRate": ("full", "outlier_detection.success_rate.hosts", 8),
    "SuccessRate.minimumHosts": ("full", "outlier_detection.success_rate.hosts", 8),
    "SuccessRate.requestVolume": ("full", "outlier_detection.success_rate.volume", 9),
    "SuccessRate.stdevFactor": ("full", "outlier_detection.success_rate.stdev_factor", 2.5),
    "OutlierDetection.failurePercentage": ("full", "outlier_detection.failure_percentage.hosts", 4),
    "FailurePercentage.threshold": ("full", "outlier_detection.failure_percentage.percent", 60),
    "FailurePercentage.minimumHosts": ("full", "outlier_detection.failure_percentage.hosts", 4),
    "FailurePercentage.requestVolume": ("full", "outlier_detection.failure_percentage.volume", 44),
    "TrafficPolicy.healthChecks": ("full", "health_checks.kind", "HTTP"),
    "HealthCheck.interval": ("full", "health_checks.interval_ms", 1_000_000),
    "HealthCheck.timeout": ("full", "health_checks.timeout_ms", 2000),
    "HealthCheck.unhealthyThreshold": ("full", "health_checks.unhealthy", 5),
    "HealthCheck.healthyThreshold": ("full", "health_checks.healthy", 6),
    "HealthCheck.intervalJitterPercent": ("full", "health_checks.jitter_percent", 7),
    "HealthCheck.altPort": ("full", "health_checks.port", 9),
    "HealthCheck.httpHealthCheck": ("full", "health_checks.path", "/hc"),
    "HttpHealthCheck.path": ("full", "health_checks.path", "/hc"),
    "HttpHealthCheck.host": ("full", "health_checks.host", "h.example"),
    "HttpHealthCheck.expectedStatuses": ("full", "health_checks.expected", [200, 299]),
    "Int64Range.start": ("full", "health_checks.expected.0", 200),
    "Int64Range.end": ("full", "health_checks.expected.1", 299),
    "HealthCheck.grpcHealthCheck": ("old", "health_checks.kind", "gRPC"),
    "GrpcHealthCheck.serviceName": ("old", "health_checks.service", "s"),
    "GrpcHealthCheck.authority": ("old", "health_checks.host", "g.example"),
    "HealthCheck.tcpHealthCheck": ("tcp-checked", "health_checks.kind", "TCP"),
    "TrafficPolicy.retryBudget": ("full", "limits.budget_ppm", 250_000),
    "TrafficPolicyRetryBudget.percent": ("full", "limits.budget_ppm", 250_000),
    "TrafficPolicyRetryBudget.minRetryConcurrency": ("full", "limits.budget_least", 7),
    "TrafficPolicy.portLevelSettings": ("old", "balancing", "RANDOM"),
    "PortTrafficPolicy.port": ("old", "balancing", "RANDOM"),
    "PortTrafficPolicy.loadBalancer": ("old", "balancing", "RANDOM"),
    "PortTrafficPolicy.connectionPool": ("old", "protocol", "as_client"),
    "PortTrafficPolicy.outlierDetection": ("old", "outlier_detection.consecutive_gateway", 9),
    "PortTrafficPolicy.healthChecks": ("old", "health_checks.kind", "gRPC"),
    "LoadBalancerSettings.warmupDurationSecs": ("warm", "warm.ms", 8000),
    "RingHash.minimumRingSize": ("hash-query", "hash.on", "query"),
    "MagLev.tableSize": ("hash-cookie", "balancing", "MAGLEV"),
}
ELSEWHERE = {
    "TLSRoute.match TLSRoute.route TLSMatchAttributes.sniHosts VirtualService.tls "
    "TLSMatchAttributes.gateways TLSMatchAttributes.port": "test_tcp_edge.py::test_passthrough_by_name",
    "TCPRoute.match TCPRoute.route L4MatchAttributes.port L4MatchAttributes.destinationSubnets "
    "L4MatchAttributes.gateways VirtualService.tcp TLSMatchAttributes.destinationSubnets "
    "RouteDestination.destination RouteDestination.weight TCPSettings.idleTimeout": (
        "test_tcp_edge.py::test_tcp_by_port_and_weight_reload_and_what_is_told"
    ),
    "L4MatchAttributes.sourceLabels L4MatchAttributes.sourceNamespace TLSMatchAttributes.sourceLabels "
    "TLSMatchAttributes.sourceNamespace": (
        "test_tcp_mesh.py::test_routes_subsets_and_services_that_come_and_go"
    ),
    "HTTPMatchRequest.sourceLabels HTTPMatchRequest.sourceNamespace HTTPRoute.delegate Delegate.name "
    "Delegate.namespace": "test_mesh_config.py::test_routes_are_chosen_by_the_source_that_asks",
    "LoadBalancerSettings.localityLbSetting LocalityLoadBalancerSetting.distribute Distribute.from "
    "Distribute.to": "test_locality.py::test_an_edge_that_distributes",
    "LocalityLoadBalancerSetting.failover LocalityLoadBalancerSetting.failoverPriority Failover.from "
    "Failover.to LocalityLoadBalancerSetting.enabled": "test_locality.py::test_an_edge_with_a_locality",
    "TrafficPolicy.tls PortTrafficPolicy.tls ClientTLSSettings.mode ClientTLSSettings.clientCertificate "
    "ClientTLSSettings.privateKey ClientTLSSettings.caCertificates ClientTLSSettings.subjectAltNames "
    "ClientTLSSettings.sni ClientTLSSettings.insecureSkipVerify": "test_edge_tls.py::test_upstream_tls",
    "LocalRateLimit.selector LocalRateLimit.rules WorkloadSelector.matchLabels LocalRateLimitRule.name "
    "LocalRateLimitRule.match LocalRateLimitRule.tokenBucket LocalRateLimitRule.perIdentity "
    "LocalRateLimitRule.overrides LocalRateLimitOverride.identities LocalRateLimitOverride.tokenBucket": (
        "test_mesh_ratelimit.py::test_limits_at_the_servers_sidecar"
    ),
}
