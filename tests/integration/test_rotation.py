"""The mesh goes over to another root, and to a CA from elsewhere, while requests are under way: none fails,
no process is restarted, and at the end the old root is worth nothing."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from helpers import wait_for
from helpers.app import App
from helpers.certs import Authority, key_pem
from helpers.mesh import Load, Mesh, Sidecar, running

WEB = "spiffe://cluster.local/ns/default/sa/web"


def status(mesh: Mesh) -> dict[str, object]:
    found: dict[str, object] = json.loads(mesh.cli("ca", "status", "-o", "json").stdout)
    return found


def pair(mesh: Mesh) -> tuple[Sidecar, Sidecar]:
    reviews = mesh.sidecar("reviews", app=App("reviews"))
    web = mesh.sidecar("web", app=App("web"))
    mesh.reaches(web, "reviews", reviews)
    return web, reviews


def issuers(sidecar: Sidecar) -> set[str]:
    found = json.loads(sidecar.view("/certs")[1])["certificates"]
    return {c["cert_chain"][0]["issuer"] for c in found if c["context"].startswith("identity")}


def roots(sidecar: Sidecar) -> set[str]:
    found = json.loads(sidecar.view("/certs")[1])["certificates"]
    return {r["serial"] for c in found if c["context"].startswith("identity") for r in c["ca_cert"]}


def serial(pem: bytes) -> str:
    return f"{x509.load_pem_x509_certificate(pem).serial_number:x}"


def verified(sidecar: Sidecar, root: bytes) -> bool:
    """Does the sidecar show a certificate that this root stands for?"""
    import socket

    context = ssl.create_default_context(cadata=root.decode())
    context.check_hostname = False
    try:
        with socket.create_connection(("127.0.0.1", sidecar.inbound), 20) as raw:
            context.wrap_socket(raw).close()
    except ssl.SSLCertVerificationError:
        return False
    except ssl.SSLError:
        return True  # it wants a certificate of ours, after we have checked its own
    return True


def test_the_root_is_rotated_under_load(tmp_path: Path) -> None:
    with running(tmp_path, "--cert-ttl", "60s") as mesh:
        web, reviews = pair(mesh)
        old = (mesh.state / "ca.crt").read_bytes()
        pids = [p for s in (web, reviews) for p in (s.process.pid, s.agent_pid, *sorted(s.worker_pids()))]
        with Load(web.outbound, "reviews") as load:
            load.more(50)
            done = mesh.cli("ca", "rotate", "--wait")
            assert "done: only" in done.stdout
            load.more(50)
        assert not load.bad
        new = (mesh.state / "ca.crt").read_bytes()
        assert new != old
        for sidecar in (web, reviews):
            wait_for(lambda s=sidecar: roots(s) == {serial(new)}, 20, f"one root in {sidecar.name}")
            subject = x509.load_pem_x509_certificate(new).subject.rfc4514_string()
            assert issuers(sidecar) == {", ".join(reversed(subject.split(",")))}
            assert verified(sidecar, new) and not verified(sidecar, old)
        after = [p for s in (web, reviews) for p in (s.process.pid, s.agent_pid, *sorted(s.worker_pids()))]
        assert pids == after
        found = status(mesh)
        assert (found["phase"], found["waiting"]) == ("idle", 0)
        assert "no rotation is under way" in mesh.cli("ca", "status").stdout


def test_a_rotation_waits_for_who_is_away(tmp_path: Path) -> None:
    with running(tmp_path, "--cert-ttl", "60s") as mesh:
        web, reviews = pair(mesh)
        reviews.kill()
        wait_for(lambda: not mesh.listed("reviews"), 20, "reviews off the list")
        done = mesh.cli("ca", "rotate", "--wait", "--timeout", "2s", status=4)
        assert "not connected" in done.stdout and "goes on" in done.stderr
        assert status(mesh)["phase"] == "distribute"
        refused = mesh.cli("ca", "proceed", status=1)
        assert "would cut off 1 workloads: reviews-" in refused.stderr
        # a restart of the control plane goes on with it
        mesh.kill_control()
        mesh.start()
        assert status(mesh)["phase"] == "distribute"
        reviews.start()
        wait_for(lambda: status(mesh)["phase"] == "idle", 60, "the end of the rotation")
        mesh.reaches(web, "reviews", reviews)
        assert web.get("reviews").status == 200


def plugged_in(directory: Path, ca: Authority, names: str) -> Path:
    """The files of an intermediate CA, as Istio or as cert-manager has them."""
    directory.mkdir(exist_ok=True)
    key, cert, root = (
        ("ca-key.pem", "ca-cert.pem", "root-cert.pem")
        if names == "istio"
        else ("tls.key", "tls.crt", "ca.crt")
    )
    (directory / key).write_bytes(key_pem(ca.key))
    (directory / cert).write_bytes(ca.pem)
    (directory / root).write_bytes(ca.root.pem)
    return directory


@pytest.mark.parametrize("names", ["istio", "cert-manager"])
def test_a_ca_from_elsewhere_is_watched(tmp_path: Path, names: str) -> None:
    first, second = (
        Authority("corporate one").intermediate("one"),
        Authority("corporate two").intermediate("two"),
    )
    directory = plugged_in(tmp_path / "ca", first, names)
    with running(tmp_path, "--cert-ttl", "60s", "--ca", str(directory)) as mesh:
        web, reviews = pair(mesh)
        assert issuers(web) == {"CN=one"} and verified(reviews, first.root.pem)
        with Load(web.outbound, "reviews") as load:
            load.more(20)
            # half of it: a key that is not the certificate's changes nothing
            for name in ("ca-key.pem", "tls.key"):
                if (directory / name).exists():
                    (directory / name).write_bytes(key_pem(second.key))
            mesh.control.wait_output("not the key of the first certificate", 20)
            plugged_in(directory, second, names)
            wait_for(lambda: issuers(web) == issuers(reviews) == {"CN=two"}, 60, "certificates by the second")
            wait_for(lambda: status(mesh)["phase"] == "idle", 60, "the end of the rotation")
            load.more(20)
        assert not load.bad
        wait_for(lambda: roots(reviews) == {serial(second.root.pem)}, 20, "the second root alone")
        assert not verified(reviews, first.root.pem) and verified(reviews, second.root.pem)


def test_a_ca_that_cannot_sign_is_refused_at_the_start(tmp_path: Path) -> None:
    ca = Authority("corporate").intermediate()
    directory = plugged_in(tmp_path / "ca", ca, "istio")
    (directory / "root-cert.pem").write_bytes(Authority("another").pem)
    mesh = Mesh(tmp_path)
    done = mesh.run("control", "--state", mesh.state, "--ca", directory)
    assert done.returncode == 1
    assert "does not chain to a root" in done.stderr and str(directory) in done.stderr
    (directory / "root-cert.pem").unlink()
    done = mesh.run("control", "--state", mesh.state, "--ca", directory)
    assert done.returncode == 1 and "root-cert.pem is missing" in done.stderr


def test_an_identity_that_is_denied_is_refused_everywhere(tmp_path: Path) -> None:
    with running(tmp_path) as mesh:
        web, reviews = pair(mesh)
        assert web.get("reviews").status == 200  # over a connection that is kept
        mesh.cli("ca", "deny", WEB, "--reason", "its key was found in a repository")
        assert "found in a repository" in mesh.cli("ca", "denied").stdout
        wait_for(lambda: "web" not in {p["service"] for p in mesh.client.items("proxies")}, 20, "web removed")
        mesh.synced()
        # it has a valid certificate, and its connection is gone
        refused = reviews.stat("tls_peer_identity")
        assert web.get("reviews").status == 503
        assert reviews.stat("tls_peer_identity") > refused >= 1
        other = mesh.sidecar("web", ready=False)
        other.process.wait_output("is denied: its key was found in a repository", 30)
        done = mesh.cli("ca", "deny", "spiffe://other/ns/x/sa/y", status=1)
        assert "no identity of this mesh" in done.stderr
        mesh.cli("ca", "allow", WEB)
        assert "is not denied" in mesh.cli("ca", "allow", WEB, status=1).stderr
        again = mesh.sidecar("web")
        mesh.reaches(again, "reviews", reviews)
        assert again.get("reviews").status == 200
