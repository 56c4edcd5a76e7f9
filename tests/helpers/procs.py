"""A process under test: its own process group, its output in files, no survivor after the test."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from helpers.net import wait_for

ROOT = Path(__file__).resolve().parents[2]
SHOWN = 8000  # characters of each output that a failed test shows


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child: this one, importing fastmesh from this checkout."""
    paths = [str(ROOT / part) for part in ("src", "control", "tests")]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **(extra or {})}


class Process:
    """A command started in its own process group, with stdout and stderr in files under `directory`.

    An `args` that begins with "fastmesh" or "python" runs in this interpreter.
    """

    def __init__(
        self,
        args: Sequence[str | os.PathLike[str]],
        directory: Path,
        *,
        name: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        command = [os.fspath(arg) for arg in args]
        self.name = name or Path(command[0]).name
        if command[0] == "fastmesh":
            command[:1] = [sys.executable, "-m", "fastmesh"]
        elif command[0] == "python":
            command[0] = sys.executable
        self.args = command
        serial = sum(1 for _ in directory.glob(f"{self.name}*.stderr"))
        self.stdout_path = directory / f"{self.name}-{serial}.stdout"
        self.stderr_path = directory / f"{self.name}-{serial}.stderr"
        with self.stdout_path.open("wb") as out, self.stderr_path.open("wb") as err:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment(env),
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, None while it runs."""
        return self.popen.poll()

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    @property
    def stdout(self) -> str:
        return self.stdout_path.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal to the process itself (not to its group)."""
        self.popen.send_signal(number)

    def wait(self, timeout: float = 10.0) -> int:
        """Wait for its end; the exit status."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still ran after {timeout:g} s") from None

    def stop(self, timeout: float = 10.0) -> int:
        """TERM, and wait for its end; the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait_output(self, pattern: str, timeout: float = 10.0) -> re.Match[str]:
        """Wait until `pattern` stands in stdout or stderr; fails at once when the process ends without it."""

        def seen() -> re.Match[str] | None:
            ended = not self.alive
            found = re.search(pattern, self.stdout, re.M) or re.search(pattern, self.stderr, re.M)
            if ended and not found:
                raise AssertionError(f"{self.name} ended with {self.returncode} before writing {pattern!r}")
            return found

        found = wait_for(seen, timeout, f"{pattern!r} from {self.name}")
        assert found is not None
        return found

    def kill(self) -> None:
        """Kill the whole group and reap the leader; nothing of it survives. Harmless when it has ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(10)

    def report(self) -> str:
        """What a failed test should show: command, status, the ends of both outputs."""
        lines = [f"--- {self.name} (pid {self.pid}, status {self.returncode}): {' '.join(self.args)}"]
        for label, text in (("stdout", self.stdout), ("stderr", self.stderr)):
            if text:
                lines.append(f"--- {label}\n{text[-SHOWN:].rstrip()}")
        return "\n".join(lines)
