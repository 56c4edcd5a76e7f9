"""Compiles an edge's config file in a short-lived child, so that YAML and the compiler stay out of the
arbiter.

Owns the child and its two memory files: the compiled config (msgpack, never looked into here) and the summary
that the arbiter needs (listeners to bind, or what is wrong with the file).
"""

from __future__ import annotations

import marshal
import os

from fastmesh.supervisor.channel import read_all, write_all
from fastmesh.supervisor.crew import fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastmesh.supervisor.log import Log

    Listeners = list[tuple[str, str, int]]


class Compiled:
    """What came of it: a descriptor of the compiled config and its listeners, or errors. The taker closes
    `fd`."""

    __slots__ = ("errors", "fd", "listeners", "warnings")

    def __init__(self, fd: int, listeners: Listeners, errors: list[str], warnings: list[str]) -> None:
        self.fd = fd
        self.listeners = listeners
        self.errors = errors
        self.warnings = warnings


class Compilation:
    """A running child; when the arbiter has reaped it, `result` says what came of it. OSError: none could be
    started."""

    def __init__(
        self, file: str, node_id: str, locality: str, log: Log, in_child: Callable[[], None]
    ) -> None:
        self.file = file
        self._config = os.memfd_create("fastmesh-edge", os.MFD_CLOEXEC)
        self._summary = -1
        try:
            self._summary = os.memfd_create("fastmesh-summary", os.MFD_CLOEXEC)
            self.pid = fork("fastmesh-compile", True, lambda: self._work(node_id, locality, in_child), log)
        except OSError:
            for fd in (self._config, self._summary):
                if fd >= 0:
                    os.close(fd)
            raise

    def _work(self, node_id: str, locality: str, in_child: Callable[[], None]) -> int:
        in_child()
        import msgpack

        from fastmesh.compile.edge import compile_edge_file
        from fastmesh.model.problems import ConfigError

        config: dict[str, Any] = {}
        errors: list[str] = []
        warnings: list[str] = []
        try:
            config = dict(compile_edge_file(self.file, node_id, locality, sources=True))
        except ConfigError as refused:
            for problem in refused.problems:
                (errors if problem.severity == "error" else warnings).append(str(problem))
        except OSError as error:
            errors.append(f"{error.filename or self.file}: {error.strerror}")
        listeners = [(each["name"], each["address"], each["port"]) for each in config.get("listeners", ())]
        warnings += [str(warning) for warning in config.get("warnings", ())]
        write_all(self._config, msgpack.packb(config))
        write_all(self._summary, marshal.dumps((listeners, errors, warnings)))
        return 0

    def result(self, status: int) -> Compiled:
        summary = read_all(self._summary)
        os.close(self._summary)
        if status == 0 and summary:
            listeners, errors, warnings = marshal.loads(summary)
        else:
            from fastmesh.supervisor.signals import describe

            listeners, errors, warnings = [], [f"{self.file}: the compiler {describe(status)}"], []
        if errors:
            os.close(self._config)
            self._config = -1
        return Compiled(
            self._config, [(name, address, port) for name, address, port in listeners], errors, warnings
        )
