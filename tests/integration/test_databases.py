"""Real databases through two sidecars, with their ordinary drivers: nothing is declared but a port."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import psycopg
import pymysql
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from helpers import free_port, wait_for
from helpers.certs import Authority
from helpers.databases import MariaDB, Postgres, Redis, Server
from helpers.mesh import Mesh, Sidecar, running

ROWS = 100_000
ONCE = Retry(NoBackoff(), 0)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("mesh")) as made:
        yield made


class Way:
    """A database with a sidecar, and a caller's local port that stands for it."""

    def __init__(self, mesh: Mesh, server: Server, service: str) -> None:
        self.server = server
        self.port = free_port()
        self.callee = mesh.sidecar(service, "--app-protocol", "tcp", app=server)  # type: ignore[arg-type]
        self.caller: Sidecar = mesh.sidecar(f"{service}-web", "--outbound-tcp", f"{self.port}={service}")
        mesh.reaches(self.caller, service, self.callee)

    def secured(self) -> None:
        """Between the sidecars there is mTLS, whatever the driver does inside of it."""
        self.callee.logged(lambda e: e.get("peer_uri_san", "").endswith("-web"))
        assert self.callee.stat("tls_accept") and self.callee.stat("tls_accept_fail") == 0


@contextlib.contextmanager
def serving(mesh: Mesh, kind: type[Server], service: str, tls: bool = True) -> Iterator[Way]:
    if kind.lacking():
        pytest.skip(kind.lacking())
    leaf = Authority().leaf(dns=["db.local"])
    with kind(leaf.cert, leaf.key) if tls else kind() as server:
        yield Way(mesh, server, service)


@pytest.fixture(scope="module")
def postgres(mesh: Mesh) -> Iterator[Way]:
    with serving(mesh, Postgres, "postgres") as way:
        yield way


@pytest.fixture(scope="module")
def mariadb(mesh: Mesh) -> Iterator[Way]:
    with serving(mesh, MariaDB, "mariadb") as way:
        yield way


def pg(way: Way, sslmode: str) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host="127.0.0.1", port=way.port, user="app", dbname="postgres", sslmode=sslmode, connect_timeout=20
    )


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_postgres(postgres: Way, sslmode: str) -> None:
    with pg(postgres, sslmode) as db:
        (secure,) = db.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone() or ()
        assert secure is (sslmode == "require")
        db.execute("create temporary table t (id int, text text)")
        with db.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
            for i in range(ROWS):
                copy.write_row((i, f"row {i}"))
        with db.cursor() as cursor, cursor.copy("copy t to stdout") as copy:
            got = sum(len(bytes(data)) for data in copy)
        assert got == sum(len(f"{i}\trow {i}\n") for i in range(ROWS))
        with pytest.raises(RuntimeError), db.transaction():
            db.execute("delete from t")
            raise RuntimeError
        assert db.execute("select count(*) from t").fetchone() == (ROWS,)
        with pytest.raises(psycopg.errors.UndefinedTable):
            db.execute("select * from nowhere")
    postgres.secured()


def my(way: Way, tls: bool) -> Any:
    return pymysql.connect(
        host="127.0.0.1", port=way.port, user="root", ssl={"check_hostname": False} if tls else None,
        ssl_disabled=not tls, connect_timeout=20, read_timeout=60, write_timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_mariadb(mariadb: Way, tls: bool) -> None:
    # the server speaks first
    with my(mariadb, tls) as db, db.cursor() as cursor:
        cursor.execute("show status like 'Ssl_cipher'")
        assert bool(cursor.fetchone()[1]) is tls
        cursor.execute("create database if not exists d")
        cursor.execute("create or replace table d.t (id int primary key, text varchar(40)) engine=innodb")
        cursor.execute(f"insert into d.t select seq, concat('row ', seq) from mysql.seq_1_to_{ROWS}")
        db.commit()
        cursor.execute("delete from d.t")
        db.rollback()
        cursor.execute("select id, text from d.t order by id")
        rows = cursor.fetchall()
        assert len(rows) == ROWS and rows[-1] == (ROWS, f"row {ROWS}")
    mariadb.secured()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_redis(mesh: Mesh, tls: bool) -> None:
    with (
        serving(mesh, Redis, "redis-tls" if tls else "redis", tls) as way,
        redis.Redis(
            "127.0.0.1", way.port, ssl=tls, ssl_cert_reqs="none", socket_timeout=30, retry=ONCE
        ) as db,
    ):
        assert db.ping()
        db.set("large", b"x" * 5_000_000)
        assert len(db.get("large") or b"") == 5_000_000  # type: ignore[arg-type]
        with db.pipeline(transaction=True) as pipe:
            for i in range(1000):
                pipe.rpush("list", i)
            pipe.execute()
        assert db.llen("list") == 1000
        # the link is cut in the middle: the driver sees it at once, and is back when the server is
        with db.pubsub() as subscribed:
            subscribed.subscribe("news")
            assert subscribed.get_message(timeout=20) is not None
            way.server.kill()
            with pytest.raises(redis.ConnectionError):
                for _ in range(100):
                    subscribed.connection.read_response(timeout=20)
        with pytest.raises(redis.ConnectionError):
            db.ping()
        way.server.start()
        wait_for(lambda: again(db), 20, "redis through the sidecars")
        way.secured()


def again(db: Any) -> bool:
    with contextlib.suppress(redis.ConnectionError, redis.TimeoutError, socket.timeout):
        return bool(db.ping())
    return False
