"""nghttpx (Debian package nghttp2-proxy), one worker; its options are all on the command line."""

from __future__ import annotations

from pathlib import Path

from bench.peers.base import Hop, Peer, Role, Site, Version, version_line, which


class Nghttpx(Peer):
    name = "nghttpx"

    def find(self) -> Path | None:
        return which("nghttpx")

    def hint(self) -> str:
        return "nghttpx is not installed: apt-get install nghttp2-proxy"

    def version(self) -> str:
        return version_line(["nghttpx", "--version"])

    def command(self, hop: Hop, site: Site) -> list[str]:
        certs = site.certs
        tls_in = hop.tls_in
        protocol = "h2" if hop.up is Version.H2 else "http/1.1"
        backend = f"127.0.0.1,{site.upstream};/;proto={protocol}"
        if hop.role is Role.OUTER:
            backend += f";tls;sni={self.host()}"
        command = [
            str(self.find()),
            "--conf=/dev/null",
            f"--frontend=127.0.0.1,{site.listen}" + ("" if tls_in else ";no-tls"),
            f"--backend={backend}",
            "--workers=1",
            "--worker-frontend-connections=0",
            "--frontend-keep-alive-timeout=300s",
            "--backend-keep-alive-timeout=300s",
            "--frontend-http2-max-concurrent-streams=1000",
            "--backend-http2-max-concurrent-streams=1000",
            "--tls13-ciphers=TLS_AES_128_GCM_SHA256",
            "--tls13-client-ciphers=TLS_AES_128_GCM_SHA256",
            "--tls-min-proto-version=TLSv1.3",
            "--log-level=ERROR",
            "--no-ocsp",
        ]
        if hop.role is Role.OUTER:
            client = [
                f"--client-cert-file={certs.client_cert}",
                f"--client-private-key-file={certs.client_key}",
            ]
            return [*command, f"--cacert={certs.ca}", *client]
        if hop.role is Role.INNER:
            command += ["--verify-client", f"--verify-client-cacert={certs.ca}"]
        return [*command, str(certs.server_key), str(certs.server_cert)] if tls_in else command
