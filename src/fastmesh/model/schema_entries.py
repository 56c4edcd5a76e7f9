"""Gateway, ServiceEntry, WorkloadEntry (networking.istio.io) and PeerAuthentication (security.istio.io),
field for field (API of Istio 1.31)."""

from __future__ import annotations

import re
from typing import Any, Final

from fastmesh.model import formats as fmt
from fastmesh.model import protocols
from fastmesh.model.fields import NOT_YET, Bool, Enum, Int, List, Map, Message, Str, clip, gone, later, req
from fastmesh.model.problems import Reporter
from fastmesh.model.schema_destinationrule import LABELS
from fastmesh.model.schema_locality import locality
from fastmesh.model.schema_virtualservice import EXPORT_TO, MAX_TOTAL_WEIGHT, PORT

MAX_ENDPOINT_WEIGHT: Final = 65535


class Protocol(Enum):
    """A port's protocol: case-insensitive, as in Istio."""

    __slots__ = ()

    def check(self, value: Any, r: Reporter) -> Any:
        return super().check(protocols.folded(value) if isinstance(value, str) else value, r)


PROTOCOL: Final = Protocol(protocols.SERVED, protocols.LATER)

# -- Gateway -------------------------------------------------------------------------------------------------


_VERSIONS: Final = ("minProtocolVersion", "maxProtocolVersion")


def _server_tls(d: dict[str, Any], r: Reporter) -> None:
    if d.keys() == {"httpsRedirect"}:
        return  # a plain HTTP server that sends everyone to https
    mode = d.setdefault("mode", "PASSTHROUGH")  # Istio's default
    if mode == "PASSTHROUGH":
        for k in ("serverCertificate", "privateKey", "caCertificates", *_VERSIONS):
            if d.get(k):
                r.add(
                    "has no meaning with mode PASSTHROUGH, the default",
                    "give mode SIMPLE or MUTUAL",
                    at=(k,),
                )
        if d.get("httpsRedirect"):
            r.add("contradicts mode PASSTHROUGH: nothing is read here", at=("httpsRedirect",))
        return
    for k in ("serverCertificate", "privateKey", *(("caCertificates",) if mode == "MUTUAL" else ())):
        if not d.get(k):
            r.add(f"is required by mode {mode}", at=(k,))
    if mode == "SIMPLE" and d.get("caCertificates"):
        r.add(
            "is possible with mode MUTUAL only: SIMPLE asks clients for no certificate",
            at=("caCertificates",),
        )


_BELOW_12: Final = "TLS 1.2 is the lowest version that is spoken"

SERVER_TLS: Final = Message(
    "ServerTLSSettings",
    {
        "httpsRedirect": Bool(),
        "mode": Enum(
            ["PASSTHROUGH", "SIMPLE", "MUTUAL"],
            later={
                "AUTO_PASSTHROUGH": "use PASSTHROUGH with tls routes",
                "ISTIO_MUTUAL": "use MUTUAL with files",
                "OPTIONAL_MUTUAL": "use MUTUAL or SIMPLE",
            },
        ),
        "serverCertificate": Str(fmt.locale_free_path),
        "privateKey": Str(fmt.locale_free_path),
        "caCertificates": Str(fmt.locale_free_path),
        "caCrl": later(),
        "credentialName": later("give files: serverCertificate, privateKey, caCertificates"),
        "credentialNames": later("give files: serverCertificate, privateKey"),
        "caCertCredentialName": later("give a file: caCertificates"),
        "tlsCertificates": later("give one pair: serverCertificate, privateKey"),
        "subjectAltNames": later("clients are checked against caCertificates alone"),
        "verifyCertificateSpki": later(),
        "verifyCertificateHash": later(),
        "minProtocolVersion": Enum(
            {"TLS_AUTO": "1.2", "TLSV1_2": "1.2", "TLSV1_3": "1.3"},
            later={"TLSV1_0": _BELOW_12, "TLSV1_1": _BELOW_12},
        ),
        "maxProtocolVersion": Enum(
            {"TLS_AUTO": "1.3", "TLSV1_3": "1.3"},
            later={"TLSV1_0": "", "TLSV1_1": "", "TLSV1_2": "TLS 1.3 is always offered"},
        ),
        "cipherSuites": later(),
        "insecureSkipVerify": later(),
    },
    rule=_server_tls,
)

GATEWAY_PORT: Final = Message(
    "Port",
    {
        "number": req(PORT),
        "protocol": req(PROTOCOL),
        "name": req(Str(fmt.port_name, empty=False)),
        "targetPort": gone("deprecated by Istio and without effect", "remove it"),
    },
)


def _bind(value: str, r: Reporter) -> None:
    if value.startswith("unix:"):
        r.add(f"listening on a Unix socket is {NOT_YET}")
    elif not fmt.is_ip(value):
        r.add(f"{clip(value)} is not an IP address")


def _server(d: dict[str, Any], r: Reporter) -> None:
    protocol, tls = d["port"]["protocol"], d.get("tls")
    secure = protocol in ("HTTPS", "TLS")
    if secure and (tls is None or "mode" not in tls):
        r.add(f"is required by protocol {protocol}", at=("tls",) if tls is None else ("tls", "mode"))
    if not secure and tls is not None and "mode" in tls:
        r.add(
            f"contradicts protocol {protocol}",
            "write protocol HTTPS to serve TLS, or TLS for TCP over it",
            at=("tls", "mode"),
        )
    if protocol in ("TCP", "TLS") and tls is not None and tls.get("httpsRedirect"):
        r.add(f"contradicts protocol {protocol}", at=("tls", "httpsRedirect"))
    if protocol == "HTTPS" and tls is not None and tls.get("httpsRedirect"):
        r.add(
            "contradicts protocol HTTPS: this server is where it would redirect to",
            at=("tls", "httpsRedirect"),
        )


GATEWAY: Final = Message(
    "Gateway",
    {
        "servers": req(
            List(
                Message(
                    "Server",
                    {
                        "port": req(GATEWAY_PORT),
                        "bind": Str(_bind),
                        "hosts": req(List(Str(fmt.gateway_host), low=1)),
                        "tls": SERVER_TLS,
                        "defaultEndpoint": later(),
                        "name": Str(),
                    },
                    rule=_server,
                ),
                low=1,
            )
        ),
        "selector": LABELS,
    },
)

# -- WorkloadEntry and ServiceEntry --------------------------------------------------------------------------


def _address(value: str, r: Reporter) -> None:
    if value.startswith("unix:"):
        r.add(f"a Unix socket as endpoint is {NOT_YET}")
    else:
        fmt.host_name(value, r)


def _workload_entry(d: dict[str, Any], r: Reporter) -> None:
    if d.get("weight") == 0:
        r.warn("0 means 1, as in Istio: the endpoint gets requests", "remove the endpoint", at=("weight",))
    if not d.get("address"):
        r.add("is required", at=("address",))


_WORKLOAD_FIELDS: Final[dict[str, Any]] = {
    "address": Str(_address),
    "ports": Map(PORT, fmt.port_name, high=128),
    "labels": LABELS,
    "network": later(),
    "locality": Str(locality, empty=False),
    "weight": Int(0, MAX_ENDPOINT_WEIGHT),
    "serviceAccount": Str(fmt.object_name),
}
WORKLOAD_ENTRY: Final = Message("WorkloadEntry", _WORKLOAD_FIELDS, rule=_workload_entry)


def _virtual_ip(value: str, r: Reporter) -> None:
    if "/" in value:
        r.add(f"a network as address is {NOT_YET}", "name single addresses")
    elif not fmt.is_ip(value):
        r.add(f"{clip(value)} is not an IP address")


def _service_entry(d: dict[str, Any], r: Reporter) -> None:
    endpoints, resolution = d.get("endpoints", []), d.get("resolution")
    if resolution is None:
        r.add("is required", f"give STATIC or DNS (the default, NONE, is {NOT_YET})", at=("resolution",))
    if not d.get("ports"):
        r.add("needs at least one port", at=("ports",))
    for field in ("number", "name"):
        seen: set[Any] = set()
        for i, p in enumerate(d.get("ports", ())):
            if p[field] in seen:
                r.add(f"{p[field]} is given twice", at=("ports", i, field))
            seen.add(p[field])
    names = {p["name"] for p in d.get("ports", ())}
    for i, e in enumerate(endpoints):
        for k in e.get("ports", {}):
            if k not in names:
                r.add(
                    "no port of this ServiceEntry has this name",
                    f"its ports: {', '.join(sorted(names))}",
                    at=("endpoints", i, "ports", k),
                )
    if sum(e.get("weight", 1) for e in endpoints) > MAX_TOTAL_WEIGHT:
        r.add(f"the weights add up to more than {MAX_TOTAL_WEIGHT}", at=("endpoints",))
    if "workloadSelector" in d and endpoints:
        r.add("workloadSelector and endpoints exclude each other", at=("endpoints",))
    for i, p in enumerate(d.get("ports", ())):
        said = protocols.name_says(p["name"])
        if "protocol" not in p and said in protocols.LATER:
            why = f"the name {p['name']} says {said}, which is {NOT_YET}"
            r.add(f"is required: {why}", protocols.LATER[said], at=("ports", i, "protocol"))
    wild = [i for i, h in enumerate(d.get("hosts", ())) if "*" in h]
    if resolution == "STATIC":
        if not endpoints and "workloadSelector" not in d:
            r.add("STATIC needs endpoints or workloadSelector", at=("resolution",))
        for i, e in enumerate(endpoints):
            if not fmt.is_ip(e["address"]):
                r.add(
                    f"{e['address']} must be an IP address with resolution STATIC",
                    "write resolution: DNS",
                    at=("endpoints", i, "address"),
                )
    elif resolution == "DNS" and not endpoints and "workloadSelector" not in d and wild:
        r.add("a wildcard cannot be resolved", "give endpoints", at=("hosts", wild[0]))


SERVICE_ENTRY: Final = Message(
    "ServiceEntry",
    {
        "hosts": req(List(Str(fmt.service_entry_host), low=1, high=256)),
        "addresses": List(Str(_virtual_ip), high=256),
        "ports": List(
            Message(
                "ServicePort",
                {
                    "number": req(PORT),
                    "protocol": PROTOCOL,
                    "name": req(Str(fmt.port_name, empty=False)),
                    "targetPort": PORT,
                },
            ),
            high=256,
        ),
        "location": Enum(["MESH_EXTERNAL", "MESH_INTERNAL"]),
        "resolution": Enum(
            ["STATIC", "DNS"],
            later={"NONE": "give STATIC or DNS", "DNS_ROUND_ROBIN": "give DNS", "DYNAMIC_DNS": "give DNS"},
        ),
        "endpoints": List(WORKLOAD_ENTRY, high=16384),
        "workloadSelector": Message("WorkloadSelector", {"labels": req(LABELS)}),
        "exportTo": EXPORT_TO,
        "subjectAltNames": List(Str(empty=False)),
    },
    rule=_service_entry,
)

# -- PeerAuthentication --------------------------------------------------------------------------------------

_MUTUAL_TLS: Final = Message("MutualTLS", {"mode": Enum(["UNSET", "DISABLE", "PERMISSIVE", "STRICT"])})
_PORT_KEY: Final = re.compile(r"[1-9][0-9]{0,4}")


def _port_key(key: str, r: Reporter) -> None:
    if not _PORT_KEY.fullmatch(key) or int(key) > 65535:
        r.add(f"{clip(key)} is not a port number")


class PortMap(Map):
    """Keys are port numbers; YAML reads them as numbers, JSON cannot."""

    __slots__ = ()

    def check(self, value: Any, r: Reporter) -> Any:
        if isinstance(value, dict):
            value = {
                clip(k) if isinstance(k, int) and not isinstance(k, bool) else k: v for k, v in value.items()
            }
            if not value:
                r.add("must not be empty")
        return super().check(value, r)


def _peer_authentication(d: dict[str, Any], r: Reporter) -> None:
    if "portLevelMtls" in d and not d.get("selector", {}).get("matchLabels"):
        r.add("needs a selector with matchLabels", at=("portLevelMtls",))


PEER_AUTHENTICATION: Final = Message(
    "PeerAuthentication",
    {
        "selector": Message("WorkloadSelector", {"matchLabels": LABELS}),
        "mtls": _MUTUAL_TLS,
        "portLevelMtls": PortMap(_MUTUAL_TLS, _port_key),
    },
    rule=_peer_authentication,
)
