"""What a proxy is started with: handed by the command line to the arbiter, and by fork to agent and workers.

The command line runs in a first, heavy process (argparse, checks, messages) which then executes a lean Python
that keeps nothing of it: 1.5 MB less in each of three processes. `launch` is the end of the first, `receive`
the beginning of the second.
"""

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, NotRequired, TypedDict

    # Where it listens, and the TCP service that this stands for: address, port, name, the service's port (0:
    # its first).
    TcpPort = tuple[str, int, str, int]

    class SidecarSpec(TypedDict):
        """What only a sidecar has."""

        bundle: dict[str, object]  # the join bundle as parsed
        service: str
        namespace: str
        version: str
        app: tuple[str, int]  # where the application listens
        app_protocol: str  # HTTP, HTTP2, GRPC; empty: not said
        inbound: tuple[str, int]
        outbound: tuple[str, int]
        locality: str  # region/zone/subzone; empty: not said
        address: str  # advertised; empty: the address from which the control plane is reached
        # When it is advertised: "" at once, "connect" when the application accepts connections, "never", or
        # a path (/healthz) that it has to answer well.
        gate: NotRequired[str]
        tcp: NotRequired[list[TcpPort]]
        # Connections are redirected to the inbound and the outbound port: what becomes of those that are for
        # no service, ALLOW_ANY or REGISTRY_ONLY. Without: they are not.
        intercept: NotRequired[str]
        ipv6: NotRequired[bool]  # ... those of IPv6, too

    class RunSpec(TypedDict):
        """What only `fastmesh run` has: the runner's part."""

        command: list[str]
        environ: dict[str, str]
        start_timeout: float  # for the sidecar to be ready
        drain: float  # for requests in flight before the application gets TERM
        grace: float  # from TERM to KILL
        ephemeral: bool  # the runner removes the state directory, the sidecars that it starts share it

    class Spec(TypedDict):
        """All of it; plain values only, `marshal` carries it."""

        role: str  # edge | sidecar
        node_id: str
        argv: list[str]
        path: list[str]  # sys.path
        workers: int
        file: str  # edge: the config file
        locality: str  # edge: region/zone/subzone; empty: not said
        admin: tuple[str, int] | None
        drain_time: float
        state: str  # sidecar: the directory of identity and last good config
        ephemeral: bool  # the arbiter removes that directory at its end
        access_log: str  # path, "-" or "off"
        access_log_format: str  # text | json
        log_format: str  # text | json
        log_level: str
        options: dict[str, int]  # limits of the workers, see proxy/worker
        sidecar: NotRequired[SidecarSpec]
        run: NotRequired[RunSpec]  # this Python is to be the runner
        runner: NotRequired[int]  # the arbiter's end of the channel to its runner


def tcp_listener_name(address: str, port: int) -> str:
    return f"tcp_[{address}]_{port}" if ":" in address else f"tcp_{address}_{port}"


def sidecar_listeners(own: SidecarSpec) -> list[tuple[str, str, int]]:
    """(name, address, port) of all that a sidecar listens at."""
    made = [("inbound", *own["inbound"]), ("outbound", *own["outbound"])]
    if own.get("ipv6"):
        made += [("inbound6", "::", own["inbound"][1]), ("outbound6", "::1", own["outbound"][1])]
    return [*made, *((tcp_listener_name(a, port), a, port) for a, port, _, _ in own.get("tcp", []))]


VARIABLE = "FASTMESH_SPEC_FD"


def launch(spec: Spec) -> NoReturn:
    """Become the arbiter, or the runner: the same process, another Python."""
    fd = os.memfd_create("fastmesh-spec")
    os.write(fd, marshal.dumps(dict(spec)))
    os.set_inheritable(fd, True)
    sys.stdout.flush()
    sys.stderr.flush()
    execute(fd, sys.argv[1:])


def execute(fd: int, argv: list[str]) -> NoReturn:
    """Become what the spec in this memory file says."""
    os.environ[VARIABLE] = str(fd)
    main = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
    os.execv(sys.executable, [sys.executable, "-IS", main, *argv])


def search_path() -> list[str]:
    """Where this process finds modules, fastmesh's own directory among them however it was installed."""
    own = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = [entry for entry in sys.path if entry.startswith("/")]
    return path if own in path else [*path, own]


def receive() -> Spec:
    """The spec that `launch` left; this Python then finds the same modules as the one that left it."""
    fd = int(os.environ.pop(VARIABLE))
    spec: Spec = marshal.loads(os.pread(fd, os.fstat(fd).st_size, 0))
    os.close(fd)
    sys.path[:] = spec["path"]
    return spec
