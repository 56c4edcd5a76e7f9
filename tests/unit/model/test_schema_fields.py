"""Every field of Istio's API is known: what is implemented is checked, all else is refused with its path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fastmesh.model.fields import List, Map, Message, Type
from fastmesh.model.schema import KINDS
from helpers.resources import VALID, check, put

# The messages of Istio's API (1.31) that are open here, with all their fields.
API = {
    "ClientTLSSettings": "mode clientCertificate privateKey caCertificates credentialName "
    "subjectAltNames sni "
    "insecureSkipVerify caCrl",
    "ConnectionPoolSettings": "tcp http",
    "CorsPolicy": "allowOrigin allowOrigins allowMethods allowHeaders exposeHeaders maxAge allowCredentials "
    "unmatchedPreflights",
    "ConsistentHashLB": "httpHeaderName httpCookie useSourceIp httpQueryParameterName ringHash maglev "
    "minimumRingSize",
    "Delegate": "name namespace",
    "Distribute": "from to",
    "Failover": "from to",
    "Destination": "host subset port",
    "DestinationRule": "host trafficPolicy subsets exportTo workloadSelector",
    "Gateway": "servers selector",
    "HTTPBody": "string bytes",
    "HTTPCookie": "name path ttl attributes",
    "HTTPDirectResponse": "status body",
    "HTTPFaultInjection": "delay abort",
    "HTTPFaultInjectionAbort": "httpStatus grpcStatus http2Error percentage",
    "HTTPFaultInjectionDelay": "percent fixedDelay exponentialDelay percentage",
    "HTTPMatchRequest": "name uri scheme method authority headers port sourceLabels gateways queryParams "
    "ignoreUriCase withoutHeaders sourceNamespace statPrefix",
    "HTTPMirrorPolicy": "destination percentage",
    "HTTPRedirect": "uri authority port derivePort scheme redirectCode prefixRewrite",
    "HTTPRetry": "attempts perTryTimeout retryOn retryRemoteLocalities retryIgnorePreviousHosts backoff",
    "HTTPRewrite": "uri authority uriRegexRewrite",
    "HTTPRoute": "name match route redirect directResponse delegate rewrite timeout retries fault mirror "
    "mirrors "
    "mirrorPercent mirrorPercentage corsPolicy headers",
    "HTTPRouteDestination": "destination weight headers",
    "HTTPSettings": "http1MaxPendingRequests http2MaxRequests maxRequestsPerConnection maxRetries "
    "idleTimeout "
    "h2UpgradePolicy useClientProtocol maxConcurrentStreams http2KeepAlive",
    "HeaderOperations": "set add remove",
    "Headers": "request response",
    "L4MatchAttributes": "destinationSubnets port sourceSubnet sourceLabels gateways sourceNamespace",
    "LoadBalancerSettings": "simple consistentHash localityLbSetting zoneAwareLbSetting "
    "warmupDurationSecs warmup",
    "LocalityLoadBalancerSetting": "distribute failover failoverPriority enabled",
    "MagLev": "tableSize",
    "MutualTLS": "mode",
    "OutlierDetection": "consecutiveErrors splitExternalLocalOriginErrors consecutiveLocalOriginFailures "
    "consecutiveGatewayErrors consecutive5xxErrors interval baseEjectionTime maxEjectionPercent "
    "minHealthPercent",
    "PeerAuthentication": "selector mtls portLevelMtls",
    "Port": "number protocol name targetPort",
    "Percent": "value",
    "PortSelector": "number",
    "PortTrafficPolicy": "port loadBalancer connectionPool outlierDetection healthChecks tls",
    "RegexRewrite": "match rewrite",
    "RingHash": "minimumRingSize",
    "RouteDestination": "destination weight",
    "Server": "port bind hosts tls defaultEndpoint name",
    "ServerTLSSettings": "httpsRedirect mode serverCertificate privateKey caCertificates caCrl "
    "credentialName "
    "credentialNames caCertCredentialName tlsCertificates subjectAltNames verifyCertificateSpki "
    "verifyCertificateHash minProtocolVersion maxProtocolVersion cipherSuites insecureSkipVerify",
    "ServiceEntry": "hosts addresses ports location resolution endpoints workloadSelector exportTo "
    "subjectAltNames",
    "ServicePort": "number protocol name targetPort",
    "StringMatch": "exact prefix regex",
    "Subset": "name labels trafficPolicy",
    "TCPRoute": "match route",
    "TCPSettings": "maxConnections connectTimeout tcpKeepalive maxConnectionDuration idleTimeout",
    "TLSMatchAttributes": "sniHosts destinationSubnets port sourceSubnet sourceLabels gateways "
    "sourceNamespace",
    "TLSRoute": "match route",
    "TrafficPolicy": "loadBalancer connectionPool outlierDetection healthChecks tls portLevelSettings tunnel "
    "proxyProtocol "
    "retryBudget",
    "TcpKeepalive": "probes time interval",
    "TrafficPolicyRetryBudget": "percent minRetryConcurrency budgetInterval",
    "VirtualService": "hosts gateways http tls tcp exportTo",
    "WarmupConfiguration": "duration minimumPercent aggression",
    "WorkloadEntry": "address ports labels network locality weight serviceAccount",
}
# Our own healthChecks, with the fields of Envoy's core.v3.HealthCheck (API of Envoy 1.32).
API |= {
    "HealthCheck": "timeout interval initialJitter intervalJitter intervalJitterPercent unhealthyThreshold "
    "healthyThreshold altPort reuseConnection httpHealthCheck tcpHealthCheck grpcHealthCheck "
    "customHealthCheck noTrafficInterval noTrafficHealthyInterval unhealthyInterval unhealthyEdgeInterval "
    "healthyEdgeInterval "
    "eventLogPath eventLogger eventService alwaysLogHealthCheckFailures alwaysLogHealthCheckSuccess "
    "tlsOptions transportSocketMatchCriteria",
    "HttpHealthCheck": "host path send receive responseBufferSize requestHeadersToAdd requestHeadersToRemove "
    "expectedStatuses retriableStatuses codecClientType serviceNameMatcher method",
    "GrpcHealthCheck": "serviceName authority initialMetadata",
    "TcpHealthCheck": "send receive proxyProtocolConfig",
    "Int64Range": "start end",
}
# security.istio.io, API 1.31.
API |= {
    "AuthorizationPolicy": "selector targetRef targetRefs rules action provider",
    "Rule": "from to when",
    "From": "source",
    "To": "operation",
    "Source": "principals notPrincipals requestPrincipals notRequestPrincipals namespaces notNamespaces "
    "serviceAccounts notServiceAccounts ipBlocks notIpBlocks remoteIpBlocks notRemoteIpBlocks",
    "Operation": "hosts notHosts ports notPorts methods notMethods paths notPaths",
    "Condition": "key values notValues",
}
# Old names that Istio has removed, and a second spelling that its CRD has.
BESIDES = {
    "HTTPRoute": "mirror_percent websocketUpgrade appendHeaders appendRequestHeaders appendResponseHeaders "
    "removeRequestHeaders removeResponseHeaders",
    "PortSelector": "name",
}
# What is not Istio's: messages of our own, and our fields in Istio's messages.
OWN = {
    "HTTPRoute": "localRateLimit",
    "HTTPLocalRateLimit": "tokenBucket perIdentity",
    "LocalRateLimit": "selector rules",
    "LocalRateLimitOverride": "identities tokenBucket",
    "OutlierDetection": "successRate failurePercentage",
    "SuccessRate": "minimumHosts requestVolume stdevFactor",
    "FailurePercentage": "threshold minimumHosts requestVolume",
    "LocalRateLimitRule": "name match tokenBucket perIdentity overrides",
    "TokenBucket": "maxTokens tokensPerFill fillInterval",
}


def messages(type_: Type | None) -> Iterator[Message]:
    if isinstance(type_, Message):
        yield type_
        for field in type_.fields.values():
            yield from messages(field.type)
    elif isinstance(type_, List):
        yield from messages(type_.item)
    elif isinstance(type_, Map):
        yield from messages(type_.value)


ALL = {m.name: m for _, schema in KINDS.values() for m in messages(schema)}


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"WorkloadSelector"}))
def test_the_fields_of_a_message_are_istios(name: str) -> None:
    said = [listed.get(name, "") for listed in (API, BESIDES, OWN)]
    assert set(ALL[name].fields) == set(" ".join(said).split())


def test_no_message_is_missing() -> None:
    assert API.keys() | OWN.keys() == ALL.keys() - {"WorkloadSelector"}
    # there are two of this name
    service_entry, peer = KINDS["ServiceEntry"][1], KINDS["PeerAuthentication"][1]
    assert set(inner_fields(service_entry, "workloadSelector")) == {"labels"}
    assert set(inner_fields(peer, "selector")) == {"matchLabels"}


def inner_fields(message: Message, field: str) -> dict[str, Any]:
    inner = message.fields[field].type
    assert isinstance(inner, Message)
    return dict(inner.fields)


@pytest.mark.parametrize("kind", VALID)
def test_the_valid_ones_are(kind: str) -> None:
    assert check(kind, VALID[kind]()) == []


NOT_YET = {
    "VirtualService": "http[0].match[0].statPrefix",
    "DestinationRule": "workloadSelector trafficPolicy.tunnel "
    "trafficPolicy.proxyProtocol "
    "trafficPolicy.loadBalancer.zoneAwareLbSetting "
    "trafficPolicy.connectionPool.http.http2KeepAlive trafficPolicy.tls.credentialName "
    "trafficPolicy.tls.caCrl",
    "Gateway": "servers[0].defaultEndpoint servers[0].tls.caCrl servers[0].tls.credentialName "
    "servers[0].tls.credentialNames servers[0].tls.caCertCredentialName servers[0].tls.tlsCertificates "
    "servers[0].tls.subjectAltNames servers[0].tls.verifyCertificateSpki "
    "servers[0].tls.verifyCertificateHash "
    "servers[0].tls.cipherSuites servers[0].tls.insecureSkipVerify",
    "ServiceEntry": "endpoints[0].network",
    "WorkloadEntry": "network",
}


@pytest.mark.parametrize(("kind", "path"), [(k, p) for k, paths in NOT_YET.items() for p in paths.split()])
@pytest.mark.parametrize("value", [{}, [], None, "x", 0, False], ids=repr)
def test_a_field_that_is_not_implemented_is_refused_whatever_it_says(
    kind: str, path: str, value: Any
) -> None:
    spec = VALID[kind]()
    put(spec, path, value)
    assert check(kind, spec) == [f"spec.{path}: not implemented yet"]
