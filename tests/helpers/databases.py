"""Real database servers for tests, on ports and in directories of their own.

with Postgres(cert, key) as server: server.port       lacking() of each class says why it cannot be
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from helpers.net import free_port, wait_for

START_SECONDS = 60.0
USER = "nobody"  # none of them runs as root


class Server:
    """A server process; `app` of a sidecar."""

    program: ClassVar[str]

    def __init__(self, cert: bytes = b"", key: bytes = b"") -> None:
        """cert, key: with them it speaks TLS, too."""
        self.port = free_port()
        self.cert, self.key = cert, key
        self.directory = Path(tempfile.mkdtemp(prefix="fastmesh-db-", dir="/tmp"))
        self.process: subprocess.Popen[bytes]

    @classmethod
    def lacking(cls) -> str:
        return "" if cls.find() else f"{cls.program} is not installed"

    @classmethod
    def find(cls) -> str | None:
        return shutil.which(cls.program, path=f"{os.environ['PATH']}:/usr/sbin")

    def file(self, name: str, data: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(data)
        path.chmod(0o600)
        self.own(path)
        return path

    def own(self, path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, USER)

    def as_user(self) -> str | None:
        return USER if os.geteuid() == 0 else None

    def prepare(self) -> None:
        """What has to be there before the first start."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        assert self.process.poll() is None, (self.directory / "log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False

    def run(self, *command: str) -> None:
        done = subprocess.run(command, user=self.as_user(), capture_output=True, cwd="/tmp", check=False)
        assert done.returncode == 0, done

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                user=self.as_user(),
                stdout=log,
                stderr=log,
                cwd="/tmp",
                start_new_session=True,
            )
        wait_for(self.ready, START_SECONDS, self.program)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait(20)

    def close(self) -> None:
        """As an App of helpers.mesh: the server is its owner's to end."""

    def __enter__(self) -> Self:
        self.own(self.directory)
        self.prepare()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class Postgres(Server):
    program = "postgres"

    @classmethod
    def find(cls) -> str | None:
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))
        return found[-1] if found else shutil.which("postgres")

    def prepare(self) -> None:
        initdb = str(Path(self.find() or "").with_name("initdb"))
        data = str(self.directory / "data")
        self.run(initdb, "-D", data, "-A", "trust", "-U", "app", "--no-sync", "-E", "UTF8", "--locale", "C")

    def command(self) -> list[str]:
        made = [
            self.find() or "",
            "-D",
            str(self.directory / "data"),
            "-p",
            str(self.port),
            "-h",
            "127.0.0.1",
        ]
        options = {"unix_socket_directories": "", "fsync": "off"}
        if self.cert:
            cert, key = self.file("server.pem", self.cert), self.file("server.key", self.key)
            options |= {"ssl": "on", "ssl_cert_file": str(cert), "ssl_key_file": str(key)}
        return [*made, *(part for name, value in options.items() for part in ("-c", f"{name}={value}"))]


class MariaDB(Server):
    program = "mariadbd"

    def prepare(self) -> None:
        base = ["--no-defaults", f"--datadir={self.directory / 'data'}"]
        self.run("mariadb-install-db", *base, "--auth-root-authentication-method=normal", "--skip-test-db")

    def command(self) -> list[str]:
        data = self.directory / "data"
        made = [
            self.find() or "", "--no-defaults", f"--datadir={data}", f"--port={self.port}",
            "--bind-address=127.0.0.1", f"--socket={self.directory / 'sock'}", "--skip-grant-tables",
            "--skip-networking=0", "--innodb-flush-log-at-trx-commit=0",
            f"--pid-file={self.directory / 'pid'}",
        ]  # fmt: skip
        if self.cert:
            cert, key = self.file("server.pem", self.cert), self.file("server.key", self.key)
            made += [f"--ssl-cert={cert}", f"--ssl-key={key}"]
        return made


class Redis(Server):
    program = "redis-server"

    def command(self) -> list[str]:
        made = [self.find() or "", "--bind", "127.0.0.1", "--save", "", "--dir", str(self.directory)]
        if not self.cert:
            return [*made, "--port", str(self.port)]
        cert, key = self.file("server.pem", self.cert), self.file("server.key", self.key)
        return [
            *made, "--port", "0", "--tls-port", str(self.port), "--tls-cert-file", str(cert),
            "--tls-key-file", str(key), "--tls-auth-clients", "no", "--tls-ca-cert-file", str(cert),
        ]  # fmt: skip
