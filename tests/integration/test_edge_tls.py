"""TLS of an edge proxy, on both of its sides: what clients and servers of the real world see."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import free_port, istio, wait_for
from helpers.app import App
from helpers.certs import Authority
from helpers.mesh import EdgeProxy, Load, request


class Files:
    """The directory with all certificates, and the ports."""

    def __init__(self, directory: Path, app: int) -> None:
        self.dir = directory
        self.ca, self.clients = Authority("servers"), Authority("clients")
        self.write_servers()
        self.clients.leaf(name="alice", dns=["alice"], server=False).write(directory, "alice")
        Authority("others").leaf(name="mallory", server=False).write(directory, "mallory")
        (directory / "ca.pem").write_bytes(self.ca.pem)
        (directory / "clients.pem").write_bytes(self.clients.pem)
        self.ports = {"plain": free_port(), "simple": free_port(), "mutual": free_port(), "app": app}

    def write_servers(self) -> None:
        self.ca.leaf(dns=["one.example"]).write(self.dir, "one")
        self.ca.leaf(dns=["*.two.example"]).write(self.dir, "two")

    @property
    def text(self) -> str:
        ports = self.ports
        mutual = f"mode: MUTUAL, caCertificates: {self.dir}/clients.pem"
        return istio.text(
            istio.gateway(
                istio.http(ports["plain"], tls="{httpsRedirect: true}"),
                istio.https(ports["simple"], self.dir, "one", "one.example", "one"),
                istio.https(ports["simple"], self.dir, "two", "*.two.example", "two"),
                istio.https(ports["mutual"], self.dir, "one", "one.example", "mutual", mutual),
            ),
            istio.routes("- route: [{destination: {host: app.local}}]"),
            istio.service("app", ports["app"]),
        )


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    app = App("app")
    yield app
    app.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, app: App) -> Files:
    return Files(tmp_path_factory.mktemp("tls"), app.port)


@pytest.fixture(scope="module")
def edge(files: Files) -> Iterator[EdgeProxy]:
    edge = EdgeProxy(files.dir, files.text)
    edge.start()
    yield edge
    edge.kill()
    print(edge.process.report())


def curl(files: Files, host: str, port: str, *args: str) -> tuple[int, str]:
    """Exit status and output, asking for the server by name."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    number = files.ports[port]
    scheme = "http" if port == "plain" else "https"
    done = subprocess.run(
        ["curl", "-sS", "-i", "--max-time", "20", "--cacert", str(files.dir / "ca.pem"),
         "--resolve", f"{host}:{number}:127.0.0.1", *args, f"{scheme}://{host}:{number}/path?q=1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


VERSIONS = pytest.mark.parametrize(
    ("option", "version"), [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2")], ids=["http1.1", "http2"]
)


@VERSIONS
def test_simple_by_curl_and_by_name(edge: EdgeProxy, files: Files, option: str, version: str) -> None:
    for host in ("one.example", "a.two.example"):
        status, text = curl(files, host, "simple", option)
        assert status == 0 and text.startswith(f"{version} 200"), text
        assert '"x-forwarded-proto": "https"' in text
    # A name that no certificate is for: what is presented does not fit, and curl says so.
    status, text = curl(files, "three.example", "simple")
    assert status in (35, 51, 60), text


def test_each_name_gets_its_certificate_and_another_ones_host_is_not_served(
    edge: EdgeProxy, files: Files
) -> None:
    context = ssl.create_default_context(cafile=str(files.dir / "ca.pem"))
    context.set_alpn_protocols(["http/1.1"])
    for name, expected in (("one.example", "one.example"), ("b.two.example", "*.two.example")):
        with (
            socket.create_connection(("127.0.0.1", files.ports["simple"]), timeout=20) as raw,
            context.wrap_socket(raw, server_hostname=name) as tls,
        ):
            certificate = tls.getpeercert()
            assert certificate is not None
            assert certificate["subjectAltName"] == (("DNS", expected),)
            assert tls.version() == "TLSv1.3" and tls.selected_alpn_protocol() == "http/1.1"
            tls.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % name.encode())
            assert tls.recv(4096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("theirs", "chosen"),
    [
        (["http/1.1", "h2"], "h2"),
        (["http/1.1"], "http/1.1"),
        ([], None),
        # The link of the mesh is for its proxies, and an edge has no identity of a mesh.
        (["fastmesh", "http/1.1"], "http/1.1"),
        (["fastmesh"], ssl.SSLError),
    ],
    ids=str,
)
def test_which_protocol_is_agreed_on(edge: EdgeProxy, files: Files, theirs: list[str], chosen: Any) -> None:
    context = ssl.create_default_context(cafile=str(files.dir / "ca.pem"))
    if theirs:
        context.set_alpn_protocols(theirs)
    with socket.create_connection(("127.0.0.1", files.ports["simple"]), timeout=20) as raw:
        if chosen is ssl.SSLError:
            with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
                context.wrap_socket(raw, server_hostname="one.example")
            return
        with context.wrap_socket(raw, server_hostname="one.example") as tls:
            assert tls.selected_alpn_protocol() == chosen


@pytest.mark.parametrize(("option", "good"), [("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)])
def test_versions_by_openssl(edge: EdgeProxy, files: Files, option: str, good: bool) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    done = subprocess.run(
        ["openssl", "s_client", option, "-connect", f"127.0.0.1:{files.ports['simple']}", "-servername",
         "one.example", "-CAfile", str(files.dir / "ca.pem"), "-cipher", "ALL:@SECLEVEL=0",
         "-verify_return_error"],
        input=b"", capture_output=True, check=False, timeout=30,
    )  # fmt: skip
    assert (b"Verify return code: 0 (ok)" in done.stdout and done.returncode == 0) == good, done


@VERSIONS
def test_mutual_wants_a_certificate_of_its_authority(
    edge: EdgeProxy, files: Files, app: App, option: str, version: str
) -> None:
    def client(name: str) -> list[str]:
        return ["--cert", str(files.dir / f"{name}.pem"), "--key", str(files.dir / f"{name}.key")]

    status, text = curl(files, "one.example", "mutual", option, *client("alice"))
    assert status == 0 and text.startswith(f"{version} 200"), text
    failed, requests = edge.stat("tls_accept_fail"), app.requests
    for arguments in ([], client("mallory")):
        status, text = curl(files, "one.example", "mutual", option, *arguments)
        assert status != 0 and version not in text
    wait_for(lambda: edge.stat("tls_accept_fail") == failed + 2, what="two refusals counted")
    assert app.requests == requests


def test_plain_http_is_sent_to_https(edge: EdgeProxy, files: Files, app: App) -> None:
    before = app.requests
    status, text = curl(files, "one.example", "plain")
    assert status == 0 and text.startswith("HTTP/1.1 301")
    (location,) = [line for line in text.splitlines() if line.lower().startswith("location:")]
    assert location.split(" ")[1] == "https://one.example/path?q=1"
    assert app.requests == before


def test_plaintext_on_a_tls_port_is_refused_and_counted(edge: EdgeProxy, files: Files, app: App) -> None:
    failed, requests = edge.stat("tls_accept_fail") + edge.stat("tls_plaintext_refused"), app.requests
    with socket.create_connection(("127.0.0.1", files.ports["simple"]), timeout=20) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: one.example\r\n\r\n")
        try:
            answer = raw.recv(4096)
        except ConnectionError:
            answer = b""
        assert not answer.startswith(b"HTTP/1.1 200")
    wait_for(
        lambda: edge.stat("tls_accept_fail") + edge.stat("tls_plaintext_refused") == failed + 1,
        what="the refusal counted",
    )
    assert app.requests == requests


def test_certificates_are_changed_by_hup_and_bad_ones_are_not_taken(edge: EdgeProxy, files: Files) -> None:
    def presented() -> bytes:
        context = ssl.create_default_context(cafile=str(files.dir / "ca.pem"))
        with (
            socket.create_connection(("127.0.0.1", files.ports["simple"]), timeout=20) as raw,
            context.wrap_socket(raw, server_hostname="one.example") as tls,
        ):
            return tls.getpeercert(binary_form=True) or b""

    before = presented()
    good = (files.dir / "one.key").read_bytes()
    (files.dir / "one.key").write_bytes((files.dir / "two.key").read_bytes())
    edge.reload(said="reload refused")
    assert "one.key" in edge.process.stderr
    (files.dir / "one.key").unlink()
    edge.reload(said="reload refused")
    assert presented() == before
    (files.dir / "one.key").write_bytes(good)
    files.write_servers()
    edge.reload()
    wait_for(lambda: presented() != before, what="the new certificate")


# --- to upstreams

UPSTREAM = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: gw}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ["*"]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: vs}}
spec:
  hosts: ["*"]
  gateways: [gw]
  http:
  - route: [{{destination: {{host: secure.example}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: secure}}
spec:
  hosts: [secure.example]
  ports: [{{number: 443, name: tls, protocol: HTTPS}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1, ports: {{tls: {upstream}}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: secure}}
spec:
  host: secure.example
  trafficPolicy: {{tls: {tls}}}
"""


class Upstream:
    """A TLS server that wants client certificates (or takes them), and an edge before it."""

    def __init__(self, files: Files, required: bool) -> None:
        self.files = files
        files.ca.leaf(dns=["secure.example"]).write(files.dir, "secure")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.dir / "secure.pem", files.dir / "secure.key")
        if required:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(files.dir / "clients.pem")
        self.app = App("secure", context=context)
        self.port = free_port()
        self.edge: EdgeProxy | None = None

    def text(self, tls: str) -> str:
        return UPSTREAM.format(
            port=self.port, upstream=self.app.port, tls=tls.replace("DIR", str(self.files.dir))
        )

    def use(self, tls: str) -> EdgeProxy:
        if self.edge is None:
            self.edge = EdgeProxy(self.files.dir, self.text(tls), name=f"edge-{self.port}")
            self.edge.start()
        else:
            generation = self.edge.info()["generation"]
            self.edge.reload(self.text(tls))
            wait_for(lambda: all(w["generation"] > generation for w in self.edge.info()["workers"]))  # type: ignore[union-attr]
        return self.edge

    def close(self) -> None:
        if self.edge is not None:
            self.edge.kill()
            print(self.edge.process.report())
        self.app.close()


@pytest.fixture(scope="module", params=[False, True], ids=["simple", "mutual"])
def upstream(request: pytest.FixtureRequest, files: Files) -> Iterator[Upstream]:
    made = Upstream(files, request.param)
    yield made
    made.close()


SIMPLE = "mode: SIMPLE, caCertificates: DIR/ca.pem"
MUTUAL = (
    "mode: MUTUAL, clientCertificate: DIR/alice.pem, privateKey: DIR/alice.key, caCertificates: DIR/ca.pem"
)
MALLORY = MUTUAL.replace("alice", "mallory")

CASES = [
    # (tls, served where no certificate is asked for, served where one is)
    (MUTUAL, True, True),
    (SIMPLE, True, False),
    (MALLORY, True, False),
    (MUTUAL.replace("DIR/ca.pem", "DIR/clients.pem"), False, False),
    (MUTUAL + ", subjectAltNames: [other.example]", False, False),
    (MUTUAL + ", subjectAltNames: [other.example, secure.example]", True, True),
    (MUTUAL + ", sni: other.example", False, False),
    (MUTUAL + ", sni: other.example, subjectAltNames: [secure.example]", True, True),
    (
        "mode: MUTUAL, clientCertificate: DIR/alice.pem, privateKey: DIR/alice.key, insecureSkipVerify: true",
        True,
        True,
    ),
    ("mode: DISABLE", False, False),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_upstream_tls(upstream: Upstream, number: int) -> None:
    tls, plain, required = CASES[number]
    asked = upstream.app.context is not None and upstream.app.context.verify_mode == ssl.CERT_REQUIRED
    served = required if asked else plain
    edge = upstream.use("{" + tls + "}")
    failed, requests = edge.stat("tls_connect_fail"), upstream.app.requests
    answer = request(upstream.port, "x", f"/case{number}")
    if served:
        assert answer.status == 200 and answer.json["tls"].startswith("TLSv1.")
        return
    assert answer.status in (502, 503)
    flags = edge.logged(lambda e: e["path"] == f"/case{number}")["response_flags"].split(",")
    # With TLS 1.3 the server refuses a client's certificate after the client has finished its handshake.
    assert {"UF", "UC", "UPE", "UR"} & set(flags), flags
    assert upstream.app.requests == requests
    if tls != "mode: DISABLE" and not (asked and tls in (SIMPLE, MALLORY)):
        assert "UF" in flags and edge.stat("tls_connect_fail") > failed


def test_connections_to_a_tls_upstream_are_kept_and_resumed(upstream: Upstream) -> None:
    edge = upstream.use("{" + MUTUAL + "}")
    with Load(upstream.port, "x", clients=3) as load:
        load.more(60)
    assert load.bad == []
    assert edge.stat("up_cx_reused") > 0
