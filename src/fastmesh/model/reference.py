"""The reference of the config language, written from the schemas: `python -m fastmesh.model.reference >
docs/CONFIG.md`.

A test holds the file to what this prints.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastmesh.model.fields import (
    Bool,
    Bytes,
    Duration,
    Enum,
    Field,
    Int,
    List,
    Map,
    Message,
    Number,
    Type,
)
from fastmesh.model.schema import KINDS, SERVER_SIDE_METADATA
from fastmesh.model.schema_virtualservice import RETRY_ON

INTRO = """\
# The config language

fastmesh reads Istio's resources, field for field (API of Istio 1.31). A field that is not implemented yet is
refused with its path and the reason, and so is everything unknown: nothing is dropped silently. All problems
of a file are told at once, with file and line. This page is generated from the schemas.

- YAML (several documents, anchors, merge keys; a key given twice is an error), JSON, and `kind: List`.
- `metadata`: name, namespace (default `default`), labels, annotations. What a server adds is accepted and has
  no effect: `status`, and of metadata
  {metadata}.
- Durations: `5s`, `1.5s`, `100ms`, `1h30m`; whole milliseconds.
- Regexes: RE2, matched against the whole value.
- A host without a dot is a service of the rule's namespace: `reviews` is
  `reviews.default.svc.cluster.local`. Rules in the namespace `istio-system` are mesh-wide.
- `retryOn` takes
  {retry_on},
  and statuses as numbers. Routes that forward are retried twice by default, on `connect-failure`,
  `refused-stream`, `unavailable` and `cancelled` (Istio's default); `retries.attempts: 0` turns it off.
  Whatever a route says, retries of a cluster are at most 20 % of its requests in flight, and always 3
  (`trafficPolicy.retryBudget` sets both). A retry goes to an endpoint that the request has not been at yet
  while there is one that can be used, and else to any but the last one; with
  `retryIgnorePreviousHosts: false` it may go to the same again at once. An answer that says
  `x-envoy-ratelimited` (a rate limit of Envoy's or of ours) is retried on `envoy-ratelimited` only,
  whatever its status, as in Envoy.
- Limits are on by default and hold for all workers of a proxy together: 1024 connections, 1024 requests that
  wait for one, 1024 requests in flight (Envoy's defaults; Istio has none). Above them: 503 with the flag UO.
- `outlierDetection` ejects for all workers of a proxy at once. When the time of an ejection is over, one
  request finds out: if it fails the endpoint is out again, for longer. `maxEjectionPercent: 0` means 10, as
  in Istio; one endpoint may always be ejected; when all are, requests get 503 with the flag UH
  (`minHealthPercent` prevents it). Without `outlierDetection` nothing is ejected.
- `outlierDetection.successRate` and `failurePercentage` are not Istio's but Envoy's, with Envoy's defaults
  where they are given (5 hosts, 100 requests in an `interval`, `stdevFactor` 1900 thousandths; 85 percent,
  5 hosts, 50 requests) and off where they are not (`successRate: {{}}` turns it on). Every attempt counts,
  also one that was retried; a failed connection is a failure, whatever `splitExternalLocalOriginErrors` says.
  An interval is judged by the first answer after it.
- `healthChecks` is not Istio's: the proxy itself checks each endpoint, every `interval` (counted from the end
  of a check; with traffic and without), on a connection of its own that no limit counts, with the TLS that
  requests to the endpoint have. Names are those of Envoy's `HealthCheck`; exactly one of `httpHealthCheck`
  (GET; 200 or `expectedStatuses`, whose `end` is not in the range, as in Envoy), `grpcHealthCheck`
  (`grpc.health.v1.Health/Check` says SERVING) and `tcpHealthCheck` (a connection, and TLS where there is
  some, can be made). `unhealthyThreshold` (3) failures in a row, of whatever kind (Envoy takes a bad HTTP
  status at once), make an endpoint unhealthy for all workers of the proxy, `healthyThreshold` (2) successes
  in a row bring it back, with its `warmup`; of a new endpoint, which is used meanwhile, the first check
  decides. `intervalJitterPercent` is 10. `host` and `authority` are the service's name unless given,
  `altPort` is asked instead of the endpoint's port. An HTTP check speaks what requests do (HTTP/1.1 where
  that is up to the client or nothing tells), gRPC always HTTP/2: with TLS it must be offered (a port that is
  declared as such, or `h2UpgradePolicy: UPGRADE`). An endpoint is used when it is neither unhealthy nor
  ejected; when none is left, requests get 503 with the flag UH (`outlierDetection.minHealthPercent` prevents
  it, and counts both).
- `simple: PEAK_EWMA` is not Istio's: Linkerd's algorithm, the better of two endpoints by the time answers
  took there (a peak counts at once, then it fades over 10 s) and the requests in flight, over all workers. A
  failed attempt, 429, 502, 503 and 504 count as a second at least.
- `warmup` is for ROUND_ROBIN, LEAST_REQUEST and PEAK_EWMA; endpoints of the first config that a proxy gets
  are warm.
- Consistent hashing: a request without a key goes anywhere; `useSourceIp` means the connection's address;
  `httpCookie` with a `ttl` (`0s`: for the session) makes the cookie for who has none. An endpoint of average
  weight has half of `minimumRingSize` points or more, whatever the number of endpoints (fewer only where a
  ring would have more than 131072): who comes or goes moves its own keys only.
- Localities: an endpoint is where its `locality` says (`region/zone/subzone`, or the first parts of it), else
  its labels `topology.kubernetes.io/region`, `topology.kubernetes.io/zone`, `topology.istio.io/subzone`; a
  proxy where `--locality` or `FASTMESH_LOCALITY` says, and a sidecar tells the mesh. With `outlierDetection`
  (as in Istio) or `healthChecks`, nearer endpoints come first, unless `localityLbSetting.enabled` is false:
  the levels are the proxy's subzone, its zone, its region, the region that `failover` names for it (without
  one: all others), the rest. `failoverPriority` makes levels of how many of its labels, from the first on, an
  endpoint has as the proxy has them (a sidecar's are `app`, `version` and its place; `key=value` is for all
  proxies); `failover` beside it sorts within them. A proxy without a place, and without `failoverPriority`,
  has one level. What lies beyond the 16th level is of the 16th.
- As Envoy's, a level of whose endpoints H percent can be used takes 1.4 x H percent of all requests, and what
  is beyond that goes to the next one. `minHealthPercent` counts all levels together, and ejections stop to
  count only when the levels together cannot take all requests (Envoy: level by level).
- `localityLbSetting.distribute`: the first rule whose `from` is the proxy's place gives each place of its
  `to` that share of the requests; endpoints elsewhere get none. It needs no `outlierDetection`; with it, or
  with `healthChecks`, a place of whose endpoints fewer than 72 percent can be used gets less of its share.
- A retry goes to the level that any request would go to. With `retryRemoteLocalities` it goes one level
  further after each two attempts (as Istio has Envoy do it), and also when all endpoints of a level have been
  tried; behind the last level the nearest is next. With `distribute` a retry's place is drawn anew, and one
  whose endpoints have all been tried is passed over.
- `simple: PASSTHROUGH`: to the address that the application called, which is known of intercepted connections
  (`fastmesh sidecar --intercept`); for others there is no endpoint (503, UH), and an edge refuses it. As in
  Istio TLS to such an address is for `trafficPolicy.tls` to say. A connection is used for one request. What
  chooses among endpoints (`outlierDetection`, `healthChecks`, `localityLbSetting`, `warmup`) contradicts it.
- `localRateLimit` of an http rule is not Istio's: token buckets (Envoy's `token_bucket`), one for all
  requests of the rule, one for each caller (`perIdentity`: the SPIFFE ID of its certificate, else its
  address), or both; with every action. `maxTokens` may come at once, `tokensPerFill` (default: all) are
  gained in each `fillInterval`, little by little. All workers of a proxy share the buckets; a new config
  keeps those that it does not change (name the rule, so that it is known again when others are put before
  it). No token: 429 with the flag RL.
- `LocalRateLimit` is not Istio's either: the same at the sidecar of the server, where callers have
  identities. It is for the workloads of its namespace that `selector` selects (of `istio-system`: of all
  namespaces), and the first of its `rules` that matches counts; one without buckets lets pass what it
  matches. Several are asked one after the other: of the namespace before those of `istio-system`, with a
  selector before those without. `overrides` give callers that they name a bucket each, in the place of
  `perIdentity`.
- `AuthorizationPolicy` is judged at the server's sidecar, and at every listener of an edge whose file has
  one (without `selector`), before routing: DENY, then ALLOW; AUDIT marks the access log. `ports` and
  `destination.port` are the application's port. `hosts` are compared with the request's as Istio does,
  port included; the case of letters and a name's last dot do not count. A caller without a certificate
  has no principal. `remote.ip` is the connection's address at an edge; at a sidecar it is the last of
  `x-forwarded-for` where the caller has shown a certificate of the mesh. Where a policy of a listener
  asks for `paths`, its requests' paths are normalised first, and sent on as they were judged: slashes
  merged, `.` and `..` resolved, escapes of letters, digits and `-._~` undone; what stays escaped is
  compared by what it stands for. A path with `;`, a backslash, an escaped slash, semicolon or control, an
  escape of an escape, bytes that are no UTF-8, or `..` above the root is refused (400). Letters of paths
  keep their case, as in Istio. Annotations: `istio.io/dry-run: "true"` only tries a policy;
  `networking.fastmesh.io/name-denials: "true"` names the rule of a denial to the client
  (`x-fastmesh-denied-by`), too.
- `exportTo` takes `"*"` only. A port of a ServiceEntry without `protocol` speaks what its name begins with
  (`http2-web`, `grpc`); OPERATIONS.md says what follows from a protocol. `TCP`,
  `TLS`, `MONGO`, `MYSQL` and `REDIS` are bytes to the proxy, whatever they mean; UDP is refused.
- `tcp` rules of a VirtualService are for Gateway servers with protocol `TCP`, or `TLS` that is ended there
  (`SIMPLE`, `MUTUAL`); `tls` rules for those that pass TLS through (`HTTPS` or `TLS` with mode `PASSTHROUGH`,
  the default of `tls.mode`). `destinationSubnets` is about the address that the client called. Of
  `connectionPool.tcp`, `maxConnections` refuses further sessions (flag UO), `idleTimeout` (1 h; `0s` turns it
  off) ends one on which nothing moves and `maxConnectionDuration` one that is old, both by a reset.

On an edge (`fastmesh edge --config FILE`) every Gateway of the file belongs to the proxy, whatever its
`selector` says; hosts of VirtualServices are taken literally; TLS files are relative to the file's folder;
several VirtualServices of one host are merged, a rule without match last. In a mesh a host has one
VirtualService, services of the registry have one port (their application's), and the mode without any
PeerAuthentication is STRICT.
"""


def messages(type_: Type | None, seen: set[str]) -> Iterator[Message]:
    """Every message below a type, each once, outer ones first."""
    if isinstance(type_, List):
        yield from messages(type_.item, seen)
    elif isinstance(type_, Map):
        yield from messages(type_.value, seen)
    elif isinstance(type_, Message) and type_.name not in seen:
        seen.add(type_.name)
        yield type_
        for field in type_.fields.values():
            yield from messages(field.type, seen)


def describe(type_: Type) -> str:
    """A type in words."""
    if isinstance(type_, Message):
        return type_.name
    if isinstance(type_, List):
        return f"list of {describe(type_.item)}"
    if isinstance(type_, Map):
        return f"map to {describe(type_.value)}"
    if isinstance(type_, Enum):
        later = f"; not yet: {', '.join(type_.later)}" if type_.later else ""
        return ", ".join(f"`{v}`" for v in type_.values) + later
    if isinstance(type_, Int):
        return f"{type_.low} to {type_.high}"
    if isinstance(type_, Number):
        return f"number from {type_.low:g} to {type_.high:g}"
    if isinstance(type_, Duration):
        return "duration" + (", `0s` for none" if type_.zero else "")
    return {Bool: "boolean", Bytes: "base64"}.get(type(type_), "string")


def row(name: str, field: Field) -> str:
    if field.type is None:
        return f"| `{name}` | *{field.later}*{'; ' + field.hint if field.hint else ''} |"
    return f"| `{name}` | {describe(field.type)}{' (required)' if field.required else ''} |"


def reference() -> str:
    names = sorted(SERVER_SIDE_METADATA)
    out = [
        INTRO.format(
            metadata=",\n  ".join(", ".join(names[i : i + 5]) for i in range(0, len(names), 5)),
            retry_on=",\n  ".join(
                ", ".join(f"`{w}`" for w in RETRY_ON[i : i + 4]) for i in range(0, len(RETRY_ON), 4)
            ),
        )
    ]
    for kind, (versions, schema) in KINDS.items():
        out.append(f"## {kind}\n\n`apiVersion`: {', '.join(versions)}\n")
        # each kind is told whole, though some messages are in several
        for message in messages(schema, set()):
            if message is not schema:
                out.append(f"### {kind}: {message.name}\n")
            out.append("| field | |\n|---|---|")
            out += [row(name, field) for name, field in message.fields.items()]
            out.append("")
    return "\n".join(out)


if __name__ == "__main__":
    print(reference(), end="")
