"""`fastmesh control`: assembles the control plane and runs it until told to stop.

Owns start-up order, its messages, and the end. What cannot work is said before anything listens.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import fcntl
import ipaddress
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
import uvloop
import zmq

from fastmesh.model import wire
from fastmesh_control.api import Api
from fastmesh_control.ca import Authority, Refused
from fastmesh_control.files import read_secret, write_secret
from fastmesh_control.identities import Identities
from fastmesh_control.keyring import PHASES
from fastmesh_control.mesh import Mesh
from fastmesh_control.metrics import Metrics
from fastmesh_control.pluggedin import PluggedIn
from fastmesh_control.registry import Registry
from fastmesh_control.rotation import Rotation
from fastmesh_control.server import ControlServer
from fastmesh_control.signer import BadSigner
from fastmesh_control.store import StateError, Store, check_directory
from fastmesh_control.tokens import Where
from fastmesh_control.topics import Compiler

log = logging.getLogger("fastmesh.control")

EXIT_FAILED = 1


class StartError(Exception):
    """Why the control plane cannot start."""


@dataclass(frozen=True)
class Keys:
    """The CURVE key pair that bundles pin."""

    public: bytes
    secret: bytes


def load_keys(state: Path) -> Keys:
    """The server's CURVE keys, made on first start."""
    path = state / "curve.key"
    kept = read_secret(path)
    if kept is None:
        public, secret = zmq.curve_keypair()
        write_secret(path, secret + b"\n")
        return Keys(public, secret)
    secret = kept.strip()
    try:
        return Keys(zmq.curve_public(secret), secret)
    except zmq.ZMQError as error:
        raise StateError(f"{path} does not hold a CURVE key") from error


def load_api_token(state: Path) -> str:
    """The API's bearer token, made on first start."""
    path = state / "api.token"
    kept = read_secret(path)
    if kept is not None and kept.strip():
        return kept.decode().strip()
    token = secrets.token_urlsafe(32)
    write_secret(path, token.encode() + b"\n")
    return token


@contextlib.contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the state directory: two control planes on one state would give out the same versions."""
    fd = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise StartError(f"another control plane uses {state}") from error
    try:
        yield
    finally:
        os.close(fd)


def split_address(text: str, what: str) -> tuple[str, int]:
    """host:port, the host an IP literal or a name; StartError if it is not one."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise StartError(f"{what} must be HOST:PORT, not {text!r}")
    return host.strip("[]") or "0.0.0.0", int(port)


def zmq_address(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """The API's listening socket."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StartError(f"the API cannot listen on {host}:{port}: {reason}") from error


class _ApiServer(uvicorn.Server):
    """uvicorn without its signal handlers: the process's own decide."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(options: argparse.Namespace, state: Path) -> None:
    """Run until SIGTERM or SIGINT."""
    host, port = split_address(options.listen, "--listen")
    updates_host, updates_port = (
        split_address(options.publish, "--publish") if options.publish else (host, port + 1)
    )
    api_host, api_port = split_address(options.api, "--api")
    public = options.advertise or ("127.0.0.1" if is_wildcard(host) else host)
    if is_wildcard(host) and not options.advertise:
        log.warning("listening on all addresses without --advertise: join bundles will say 127.0.0.1")
    keys = load_keys(state)
    plugged = PluggedIn(Path(options.ca)) if options.ca else None
    authority = Authority(state, options.trust_domain, options.cert_ttl, plugged.read() if plugged else None)
    store = Store(state / "mesh.db")
    metrics = Metrics()
    registry = Registry(options.lease, options.lease / 3)
    rotation = Rotation(authority.keyring, store, registry, options.trust_domain)
    mesh = Mesh(store, Compiler(options.trust_domain, rotation.trust))
    rotation.connect(mesh.refresh, lambda: mesh.topics[wire.TRUST].version)
    where = Where(
        zmq_address(public, port),
        zmq_address(public, updates_port),
        keys.public.decode(),
        options.trust_domain,
    )
    api_socket = listen(api_host, api_port)
    server = ControlServer(
        mesh,
        Identities(store, authority, rotation, metrics),
        rotation,
        registry,
        metrics,
        keys.secret,
        zmq_address(host, port),
        zmq_address(updates_host, updates_port),
    )
    metrics.read("proxies", "Sidecars connected", lambda: len(registry.by_instance))
    metrics.read("endpoints", "Endpoints listed", lambda: len(mesh.state.endpoints))
    metrics.read("topics", "Topics", lambda: len(mesh.topics))
    metrics.read("version", "Version of the mesh", lambda: mesh.version)
    metrics.read("superseded", "Sessions that a newer process took over", lambda: registry.superseded)
    metrics.read("leases_expired", "Sidecars that stopped without goodbye", lambda: registry.expired)
    metrics.read("connections_denied", "Connections refused by key", lambda: server.gate.denied)
    metrics.read("state_write_failures", "Changes that could not be written", lambda: mesh.write_failures)
    keyring = authority.keyring
    metrics.read(
        "root_expiry_timestamp_seconds",
        "When the root certificate expires",
        lambda: keyring.active.root.not_valid_after_utc.timestamp(),
    )
    metrics.read(
        "signer_expiry_timestamp_seconds",
        "When the signing certificate, or one above it, expires",
        lambda: keyring.active.expires.timestamp(),
    )
    metrics.read(
        "rotation_phase",
        "0: none, 1: roots are given out, 2: certificates",
        lambda: PHASES.index(keyring.phase),
    )
    metrics.read("denied_identities", "Identities that are denied", lambda: len(rotation.denied))
    write_secret(state / "api.url", f"http://{api_host}:{api_port}\n".encode())
    api = Api(store, mesh, server, authority, rotation, where, metrics, load_api_token(state))
    config = uvicorn.Config(
        api.app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    http = _ApiServer(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tasks = [
        asyncio.create_task(server.run()),
        asyncio.create_task(http.serve(sockets=[api_socket])),
        asyncio.create_task(stop.wait()),
    ]
    if plugged is not None:
        tasks.append(asyncio.create_task(plugged.watch(rotation.offer)))
    log.info(
        "control plane of %s: sidecars %s, updates %s, API http://%s:%d, state %s (epoch %s, version %d)",
        options.trust_domain,
        where.control,
        where.updates,
        api_host,
        api_port,
        state,
        mesh.epoch,
        mesh.version,
    )
    print("ready", flush=True)
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        http.should_exit = True
        for task in (tasks[0], *tasks[3:]):
            task.cancel()
        await asyncio.wait([*tasks[:2], *tasks[3:]], timeout=3)
        server.close()
        store.close()


def run(options: argparse.Namespace) -> int:
    """Run the control plane; the exit status."""
    logging.basicConfig(
        level=options.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    state = Path(options.state)
    try:
        if options.cert_ttl < 1 or options.lease <= 0:
            raise StartError("--cert-ttl and --lease must be positive")
        check_directory(state)
        with locked(state):
            uvloop.run(serve(options, state))
    except (StateError, StartError, Refused, BadSigner) as error:
        print(f"fastmesh control: {error}", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        reason = "no space left" if error.errno == errno.ENOSPC else error.strerror or str(error)
        print(f"fastmesh control: {reason}", file=sys.stderr)
        return EXIT_FAILED
    return 0
