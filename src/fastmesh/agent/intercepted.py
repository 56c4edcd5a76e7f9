"""The config of a sidecar whose application's connections are redirected to it (`--intercept`).

Pure: adds to an assembled config what only such connections need. Where they were for is known then, so
that TCP services are found by address and port, TLS by the name in its ClientHello, and what nobody has
declared goes on to where it was for, or nowhere.
"""

from __future__ import annotations

from fastmesh.agent.tcpside import concerns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastmesh.compile.fragment import Fragment
    from fastmesh.model.ir import Cluster, Config, Listener, Route, VirtualHost
    from fastmesh.supervisor.spec import SidecarSpec

# Istio's names.
PASSTHROUGH, INBOUND_PASSTHROUGH = "PassthroughCluster", "InboundPassthroughCluster"
ALLOW_ANY, BLOCK_ALL = "allow_any", "block_all"
OUTBOUND_TCP, INBOUND_TCP = "outbound-tcp", "inbound-tcp"


def intercept(
    config: Config, spec: SidecarSpec, fragments: Iterable[Fragment], labels: dict[str, str]
) -> None:
    """Makes the config one for redirected connections."""
    fragments = list(fragments)
    anywhere = spec.get("intercept") == "ALLOW_ANY"
    config["listeners"] = [made for each in config["listeners"] for made in captured(each, spec)]
    for table in config["tables"]:
        if table["name"] == "outbound":
            table["virtual_hosts"] = http_hosts(table["virtual_hosts"], fragments, anywhere)
    config["tables"] += [
        {"name": OUTBOUND_TCP, "virtual_hosts": tcp_hosts(spec, fragments, labels, anywhere)},
        {
            "name": INBOUND_TCP,
            "virtual_hosts": [
                {"name": "other-ports", "domains": ["*"], "routes": [to(INBOUND_PASSTHROUGH, INBOUND_TCP)]}
            ],
        },
    ]
    config["clusters"] += [original(PASSTHROUGH), original(INBOUND_PASSTHROUGH)]


def captured(listener: Listener, spec: SidecarSpec) -> list[Listener]:
    """The listener for redirected connections, and its like for IPv6."""
    if listener["name"] == "inbound":
        listener["captured"] = {"table": INBOUND_TCP, "app_port": spec["app"][1]}
    elif listener["name"] == "outbound":
        listener["captured"] = {"table": OUTBOUND_TCP}
    else:
        return [listener]
    if not spec.get("ipv6"):
        return [listener]
    address = "::" if listener["name"] == "inbound" else "::1"
    return [listener, {**listener, "name": f"{listener['name']}6", "address": address}]


def original(name: str) -> Cluster:
    """A cluster of whatever address was called; the one of its endpoint is never dialled."""
    return {
        "name": name,
        "endpoints": [{"address": "0.0.0.0", "port": 1}],
        "original_dst": True,
        "protocol": "as_client",
        "max_connections": 0,
    }


def to(cluster: str, name: str) -> Route:
    return {"name": name, "dests": [{"cluster": cluster, "weight": 1}]}


def http_hosts(hosts: list[VirtualHost], fragments: list[Fragment], anywhere: bool) -> list[VirtualHost]:
    """HTTP by name as without interception, and by the addresses of a service's instances; then what is no
    service's."""
    taken = {domain for host in hosts for domain in host["domains"]}
    made: list[VirtualHost] = []
    own = {
        fragment["virtual_hosts"][0]["name"]: fragment for fragment in fragments if fragment["virtual_hosts"]
    }
    for host in hosts:
        more = own[host["name"]].get("instances", []) if host["name"] in own else []
        more = [address for address in dict.fromkeys(more) if address not in taken]
        taken.update(more)
        made.append({**host, "domains": [*host["domains"], *more]})
    if "*" not in taken:
        blocked: Route = {"name": BLOCK_ALL, "direct": {"status": 502}}
        rest = to(PASSTHROUGH, ALLOW_ANY) if anywhere else blocked
        made.append({"name": rest["name"], "domains": ["*"], "routes": [rest]})
    return made


def tcp_hosts(
    spec: SidecarSpec, fragments: list[Fragment], labels: dict[str, str], anywhere: bool
) -> list[VirtualHost]:
    """TCP services by the addresses and ports that they have, and by name where that is asked for in TLS."""
    by_address: list[Route] = []
    by_name: list[VirtualHost] = []
    rest = [to(PASSTHROUGH, ALLOW_ANY)] if anywhere else []
    for fragment in sorted(fragments, key=lambda f: f["host"]):
        named: list[Route] = []
        for each in fragment.get("tcp", []):
            for route in each["routes"]:
                if not concerns(route.get("source", {}), spec["namespace"], labels):
                    continue
                kept: Route = {k: v for k, v in route.items() if k != "source"}  # type: ignore[assignment]
                conds = kept.get("conds", [])
                at_port = {**kept, "conds": [*conds, {"on": "port", "op": "exact", "number": each["port"]}]}
                named.append(at_port)  # type: ignore[arg-type]
                by_address += [
                    {
                        **kept,
                        "conds": [
                            *conds,
                            {"on": "destination", "op": "exact", "networks": networks},
                            {"on": "port", "op": "exact", "number": port},
                        ],
                    }
                    for port, networks in places(fragment, each["port"])
                ]
        if named and "." in fragment["host"]:
            by_name.append(
                {"name": fragment["host"], "domains": [fragment["host"]], "routes": [*named, *rest]}
            )
    return [*by_name, {"name": "by-address", "domains": ["*"], "routes": [*by_address, *rest]}]


def places(fragment: Fragment, port: int) -> list[tuple[int, list[str]]]:
    """(port, addresses) where a TCP service is called: its own, and its instances' applications."""
    found: dict[int, list[str]] = {}
    if fragment.get("addresses"):
        found[port] = list(fragment["addresses"])
    for text in fragment.get("instances", []):
        address, _, number = text.rpartition(":")
        found.setdefault(int(number), []).append(address.strip("[]"))
    return list(found.items())
