"""Config of an edge as text, put together from its documents.

text(gateway(http(port)), routes("- route: [{destination: {host: app.local}}]"), service("app", backend))
"""

from __future__ import annotations

import textwrap
from pathlib import Path

HEAD = "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n"


def text(*documents: str) -> str:
    return "---\n".join(documents)


def document(kind: str, name: str, spec: str) -> str:
    return HEAD.format(kind=kind, name=name) + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"


def http(port: int, name: str = "http", tls: str = "") -> str:
    """A server for any host; tls: of the server, e.g. {httpsRedirect: true}."""
    return server(port, name, "HTTP", "*", tls)


def https(port: int, directory: Path, leaf: str, host: str = "*", name: str = "https", more: str = "") -> str:
    """A server that shows the certificate `leaf` of a directory; more: another mode, or a CA."""
    files = f"serverCertificate: {directory}/{leaf}.pem, privateKey: {directory}/{leaf}.key"
    return server(port, name, "HTTPS", host, f"{{{more or 'mode: SIMPLE'}, {files}}}")


def server(port: int, name: str, protocol: str, host: str, tls: str) -> str:
    line = f'- port: {{number: {port}, name: {name}, protocol: {protocol}}}\n  hosts: ["{host}"]\n'
    return line + (f"  tls: {tls}\n" if tls else "")


def gateway(*servers: str) -> str:
    return document("Gateway", "gw", "selector: {istio: ingressgateway}\nservers:\n" + "".join(servers))


def routes(http: str, name: str = "vs", host: str = "*") -> str:
    """A VirtualService of the gateway; http: the list."""
    lines = textwrap.dedent(http).strip("\n")
    return document("VirtualService", name, f'hosts: ["{host}"]\ngateways: [gw]\nhttp:\n{lines}')


def service(name: str, *ports: int, protocol: str = "HTTP", port: str = "http") -> str:
    """NAME.local, port 80 (named `port`), at ports of 127.0.0.1."""
    endpoints = ", ".join(f"{{address: 127.0.0.1, ports: {{{port}: {number}}}}}" for number in ports)
    return entry(name, "STATIC", endpoints, protocol, port)


def entry(name: str, resolution: str, endpoints: str, protocol: str = "HTTP", port: str = "http") -> str:
    spec = f"""
    hosts: [{name}.local]
    ports: [{{number: 80, name: {port}, protocol: {protocol}}}]
    resolution: {resolution}
    endpoints: [{endpoints}]
    """
    return document("ServiceEntry", name, spec)


def policy(name: str, traffic_policy: str) -> str:
    """A DestinationRule of NAME.local."""
    lines = textwrap.indent(textwrap.dedent(traffic_policy).strip("\n"), "  ")
    return document("DestinationRule", name, f"host: {name}.local\ntrafficPolicy:\n{lines}")
