"""h2spec in strict mode against a live edge, over cleartext and over TLS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers import free_port, h2spec
from helpers.certs import Authority
from helpers.h2origin import Origin
from helpers.worker import Upstream
from integration.h2edges import started_edge

PORTS = ("plain", "tls")


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """An edge before an origin of each version that answers everything."""
    directory = tmp_path_factory.mktemp("edge")
    Authority("edge").leaf(dns=["edge"]).write(directory, "edge")
    ports = {name: free_port() for name in PORTS}
    one, two = Upstream(), Origin(tolerant=True)
    one.response = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 24\r\nContent-Type: text/plain\r\n\r\n" + b"hello " * 4
    )
    two.reply = (200, [("content-type", "text/plain")], b"hello " * 4)
    edge = started_edge(directory, one=one.port, two=two.port, **ports)
    yield ports
    edge.kill()
    print(edge.process.report())
    one.close()
    two.close()


@pytest.mark.timeout(600)
# Not /direct: an answer that does not wait for its request ends many cases before they have begun.
@pytest.mark.parametrize("path", ["/one", "/h2"])
@pytest.mark.parametrize("port", PORTS)
def test_every_case_passes(ports: dict[str, int], port: str, path: str) -> None:
    secure = ["-t", "-k"] if port == "tls" else []
    assert h2spec.run(ports[port], *secure, "-P", path) == ""
