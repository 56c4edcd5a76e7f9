"""What a service's topic carries (compile): routes and clusters of one host for the outbound side of any
sidecar.

A fragment is the same for every client; only a service's bare name ("reviews") is for clients of its own
namespace alone, so each virtual host keeps those names apart until `localize`. Plain dicts, no import: an
agent uses this.
"""

from __future__ import annotations

# On a workload whose application speaks TCP, with the value TCP.
PROTOCOL_LABEL = "fastmesh.io/app-protocol"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NotRequired, TypedDict

    from fastmesh.model import ir

    class FragmentHost(ir.VirtualHost):
        """A virtual host with the names that only clients of `namespace` use."""

        local_domains: NotRequired[list[str]]
        namespace: NotRequired[str]

    class FragmentPort(TypedDict):
        """A port that carries TCP."""

        port: int
        routes: list[ir.Route]

    class Fragment(TypedDict):
        """The content of one service's topic."""

        host: str
        virtual_hosts: list[FragmentHost]
        clusters: list[ir.Cluster]  # of the host itself and, complete, of every other that its routes lead to
        tls: list[
            dict[str, Any]
        ]  # contexts of DestinationRules; cert_file, key_file, ca_file are the sidecar's to read
        needs: list[str]  # the other hosts whose clusters are in here
        # What callers may have called instead of a name: "10.0.0.5:9080", the applications of its workloads
        # (not of loopback: every host has that), and the service's own addresses without port, of TCP.
        instances: NotRequired[list[str]]
        addresses: NotRequired[list[str]]
        tcp: NotRequired[list[FragmentPort]]  # the service's TCP ports, in the order in which it has them


def localize(fragment: Fragment, namespace: str, labels: dict[str, str]) -> list[ir.VirtualHost]:
    """The virtual hosts as a client of this namespace with these labels needs them."""

    def concerns(source: ir.Source) -> bool:
        wanted = source.get("labels", {})
        return source.get("namespace", namespace) == namespace and all(
            labels.get(k) == v for k, v in wanted.items()
        )

    def without(route: ir.Route) -> ir.Route:
        if "source" not in route:
            return route
        return {k: v for k, v in route.items() if k != "source"}  # type: ignore[return-value]

    out: list[ir.VirtualHost] = []
    for host in fragment["virtual_hosts"]:
        own = host.get("local_domains", []) if host.get("namespace") == namespace else []
        kept = [
            i for i, route in enumerate(host["routes"]) if "source" not in route or concerns(route["source"])
        ]
        made: ir.VirtualHost = {
            "name": host["name"],
            "domains": [*host["domains"], *own],
            "routes": [without(host["routes"][i]) for i in kept],
        }
        if "places" in host:
            places = host["places"].split()
            made.update({"source": host["source"], "places": " ".join(places[i] for i in kept)})
        out.append(made)
    return out


def place_text(source: str, place: str) -> str:
    """ "2.1" of a VirtualService: its third rule's second match."""
    rule, dot, match = place.partition(".")
    return f"{source}: spec.http[{rule}]" + (f".match[{match}]" if dot else "")
