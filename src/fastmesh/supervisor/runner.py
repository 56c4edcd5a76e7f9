"""`fastmesh run`: the parent of an application and of the sidecar beside it.

Owns both lives and their order: the application starts when every worker of the sidecar serves its first
config; the sidecar stays until the application is gone; the exit status is the application's. Knows nothing
of what the sidecar does: it hears `ready` and `quiet` of the arbiter and says `retire` and `leave` (a
channel; nothing is polled).

All signals stay blocked and are taken one at a time, with where they come from: what a terminal sends has
reached the application already, which is in the same process group then. The sidecar is a session of its
own: neither a terminal nor a service manager that signals a group tells it to leave before the application
has.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import fcntl
import marshal
import os
import sys
import time

from fastmesh.supervisor import signals
from fastmesh.supervisor.channel import Channel
from fastmesh.supervisor.crew import rename
from fastmesh.supervisor.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastmesh.supervisor.spec import Spec

# As `docker run` and `env` have them: the runner's own failure, a command that cannot be executed, or is
# not found.
EXIT_SIDECAR, EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND = 125, 126, 127
# A sidecar that ends while the application lives is replaced after a wait that doubles; one that served for
# this long begins anew.
BACKOFF, BACKOFF_MAX, GOOD_SECONDS = 0.1, 5.0, 30.0
# What the sidecar may take beyond its drain time (the agent's last words) before it is killed.
OVERTIME_SECONDS = 10.0
# What is left of the application's process group is looked at this often: nobody is told when a grandchild
# ends.
LEFT_POLL_SECONDS = 0.05
# A signal of this origin was sent by the kernel: by a terminal, to its whole foreground group.
SI_KERNEL = 0x80

SIGIO: int = _signal.SIGIO
SIGWINCH: int = _signal.SIGWINCH
STOPS = (signals.SIGTERM, signals.SIGINT)
PASSED = (signals.SIGHUP, signals.SIGQUIT, signals.SIGUSR1, signals.SIGUSR2, SIGWINCH)
WAITED = (*STOPS, *PASSED, signals.SIGCHLD, SIGIO)


class Runner:
    """One application's life in the mesh."""

    def __init__(self, spec: Spec, log: Log) -> None:
        self.spec = spec
        self.options = spec["run"]
        self.log = log
        # Only where somebody sits at a terminal the application shares its group: it can then read from the
        # terminal, and stops and goes on with it. Else it has one of its own, with all of its children.
        self._shared_group = os.isatty(0)
        self._app = 0
        self._left = 0  # the application's process group, after its leader has ended
        self._status: int | None = None  # what the runner exits with, once that is known
        self._stop = 0  # the signal that asked for the end
        self._pass_at = 0.0  # when it is passed on at the latest; 0: it has been, or there is none
        self._kill_at = 0.0
        self._sidecar = 0
        self._channel: Channel | None = None
        self._ready = False
        self._born = self._due = self._wait = 0.0
        self._sidecar_deadline = 0.0
        self._leaving = False
        self._start_deadline = time.monotonic() + self.options["start_timeout"]

    def run(self) -> int:
        rename("fastmesh-run")
        _signal.pthread_sigmask(_signal.SIG_BLOCK, WAITED)
        self._start_sidecar()
        while self._status is None or self._sidecar or self._left:
            info = _signal.sigtimedwait(WAITED, self._timeout())
            if info is not None:
                self._take(info.si_signo, info.si_code)
            self._hear()
            self._look(time.monotonic())
        if self.options["ephemeral"]:
            from fastmesh.supervisor.arbiter import remove_directory

            remove_directory(self.spec["state"])
        return self._status

    def _timeout(self) -> float:
        times = [at for at in (self._pass_at, self._kill_at, self._sidecar_deadline) if at]
        if not self._app and self._status is None:
            times.append(self._start_deadline)
        if not self._sidecar and self._status is None:
            times.append(self._due)
        now = time.monotonic()
        if self._left:
            times.append(now + LEFT_POLL_SECONDS)
        return max(0.0, min(times, default=now + 3600.0) - now)

    # --- signals

    def _take(self, number: int, code: int) -> None:
        if number == signals.SIGCHLD:
            self._reap()
        elif number in STOPS:
            self._asked_to_stop(number, self._shared_group and code == SI_KERNEL)
        elif number in PASSED and not (self._shared_group and code == SI_KERNEL):
            self._tell_app(number)

    def _asked_to_stop(self, number: int, told: bool) -> None:
        """`told`: the application has got the signal, too."""
        name = signals.NAMES[number]
        if not self._app:
            if self._status is None:
                self.log.info(f"{name} before the application was started")
                self._end(128 + number)
            else:
                self._leave()  # again: the sidecar need not finish what is in flight
            return
        if told:
            # Who presses Ctrl-C waits for nothing but the application; it decides what one means.
            self._pass_at = 0.0
            return
        if self._stop:
            self.log.info(f"{name} again: the application is killed")
            self._kill_app()
            return
        self._stop = number
        if self._ready and self.options["drain"] and self._tell_sidecar("retire"):
            self.log.info(f"{name}: no new requests to the application, then it gets the signal")
            self._pass_at = time.monotonic() + self.options["drain"]
        else:
            self._pass()

    def _pass(self) -> None:
        self._pass_at = 0.0
        self._kill_at = time.monotonic() + self.options["grace"]
        self._tell_app(self._stop)

    def _tell_app(self, number: int) -> None:
        if self._app:
            os.kill(self._app, number)

    def _kill_app(self) -> None:
        self._kill_at = self._pass_at = 0.0
        if self._shared_group:
            self._tell_app(signals.SIGKILL)
        elif group := self._app or self._left:
            self._tell_group(group, signals.SIGKILL)

    def _tell_group(self, group: int, number: int) -> bool:
        """False: nobody is in it any more."""
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # of another user: it is not ours to end
            return False
        return True

    def _reap(self) -> None:
        """As pid 1 of a container, orphans of others are reaped here, too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._app:
                self._app_ended(status)
            elif pid == self._sidecar:
                self._sidecar_ended(status)

    def _look(self, now: float) -> None:
        """What time brings."""
        if self._pass_at and self._pass_at <= now:
            self.log.warning("requests to the application are still in flight")
            self._pass()
        if self._kill_at and self._kill_at <= now:
            self.log.warning(f"not gone {self.options['grace']:g} s after the signal: killed")
            self._kill_app()
        if self._left and not self._tell_group(self._left, 0):
            self._left = 0
            self._kill_at = 0.0
            self._leave()
        if not self._app and self._status is None and self._start_deadline <= now:
            limit = self.options["start_timeout"]
            self.log.error(f"the sidecar is not ready after {limit:g} s: {self._missing()}")
            self._end(EXIT_SIDECAR)
        if not self._sidecar and self._status is None and self._due <= now:
            self._start_sidecar()
        if self._sidecar_deadline and self._sidecar_deadline <= now:
            self.log.warning("the sidecar did not leave in time: killed")
            self._sidecar_deadline = 0.0
            self._tell_group(self._sidecar, signals.SIGKILL)

    # --- the application

    def _start_app(self) -> None:
        command = self.options["command"]
        pid = os.fork()
        if not pid:
            self._become(command)
        if not self._shared_group:
            join_group(pid)  # the child does the same: whoever is first
        self._app = pid
        self.log.info("the sidecar is ready: application started", pid=pid)

    def _become(self, command: list[str]) -> None:
        code = EXIT_CANNOT_EXECUTE
        try:
            if not self._shared_group:
                os.setpgid(0, 0)
            fresh()
            os.execvpe(command[0], command, self.options["environ"])
        except FileNotFoundError as error:
            self.log.error(f"{command[0]}: {error.strerror}")
            code = EXIT_NOT_FOUND
        except OSError as error:
            self.log.error(f"{command[0]}: {error.strerror}")
        finally:
            os._exit(code)

    def _app_ended(self, status: int) -> None:
        group, self._app = self._app, 0
        self._pass_at = 0.0
        code = os.waitstatus_to_exitcode(status)
        self._status = 128 - code if code < 0 else code
        self.log.info(f"the application {signals.describe(status)}")
        if not self._shared_group and self._tell_group(group, signals.SIGTERM):
            # Children that it left behind are part of it: the mesh is theirs, too, until they are gone.
            self._left = group
            self._kill_at = self._kill_at or time.monotonic() + self.options["grace"]
        else:
            self._kill_at = 0.0
            self._leave()

    def _end(self, status: int) -> None:
        """Without an application."""
        self._status = status
        self._leave()

    # --- the sidecar

    def _start_sidecar(self) -> None:
        ours, theirs = Channel.pair()
        fcntl.fcntl(ours.fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(ours.fd, fcntl.F_SETFL, fcntl.fcntl(ours.fd, fcntl.F_GETFL) | fcntl.FASYNC)
        memory = os.memfd_create("fastmesh-spec")
        packed: dict[str, object] = {**self.spec, "runner": theirs.fd}
        del packed["run"]
        os.write(memory, marshal.dumps(packed))
        self._ready = False
        self._born = time.monotonic()
        pid = os.fork()
        if not pid:
            try:
                os.setsid()
                fresh()
                for fd in (theirs.fd, memory):
                    os.set_inheritable(fd, True)
                from fastmesh.supervisor.spec import execute

                execute(memory, self.spec["argv"][1:])
            finally:
                os._exit(EXIT_CANNOT_EXECUTE)
        theirs.close()
        os.close(memory)
        self._sidecar, self._channel = pid, ours

    def _tell_sidecar(self, kind: str) -> bool:
        return self._channel is not None and self._channel.send(kind)

    def _hear(self) -> None:
        while self._channel is not None:
            try:
                received = self._channel.receive()
            except EOFError:
                self._channel.close()
                self._channel = None
                return
            if received is None:
                return
            (kind, _), _ = received
            if kind == "ready":
                self._ready = True
                if not self._app and self._status is None:
                    self._start_app()
                elif self._stop:
                    self._tell_sidecar(
                        "retire"
                    )  # one that was replaced meanwhile: it must not be listed again
            elif kind == "quiet" and self._pass_at:
                self._pass()
            elif kind == "stop":  # the admin endpoint's quitquitquit
                self._asked_to_stop(signals.SIGTERM, False)

    def _leave(self) -> None:
        """Nobody needs the sidecar any more. A second time: at once."""
        if not self._sidecar:
            return
        first, self._leaving = not self._leaving, True
        if not self._tell_sidecar("leave"):
            self._tell_group(self._sidecar, signals.SIGKILL)
        if first:
            self._sidecar_deadline = time.monotonic() + self.spec["drain_time"] + OVERTIME_SECONDS

    def _sidecar_ended(self, status: int) -> None:
        self._sidecar = 0
        self._sidecar_deadline = 0.0
        self._hear()  # what it said before its end, to the end
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._leaving or self._status is not None:
            return
        how = signals.describe(status)
        if not self._app and not os.WIFSIGNALED(status):
            self.log.error(f"the sidecar cannot start ({how}): the application is not started")
            self._status = EXIT_SIDECAR
            return
        now = time.monotonic()
        served = self._ready and now - self._born > GOOD_SECONDS
        self._wait = BACKOFF if served or not self._wait else min(self._wait * 2, BACKOFF_MAX)
        self._due = now + self._wait
        self._ready = False
        self.log.error(f"the sidecar {how}; it is replaced in {self._wait:g} s, the application goes on")
        if self._pass_at:
            self._pass()

    def _missing(self) -> str:
        """What its admin endpoint says of it."""
        where = self.spec["admin"]
        if where is None:
            return "see its log"
        sock = _socket.socket(_socket.AF_INET6 if ":" in where[0] else _socket.AF_INET)
        try:
            sock.settimeout(1.0)
            sock.connect(where)
            sock.send(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            text = b""
            while part := sock.recv(4096):
                text += part
            return text.partition(b"\r\n\r\n")[2].decode("utf-8", "replace").strip() or "see its log"
        except OSError:
            return "its admin endpoint does not answer"
        finally:
            sock.close()


def join_group(pid: int) -> None:
    """Make it the leader of a group of its own."""
    try:
        os.setpgid(pid, pid)
    except OSError:
        return  # it has done so itself, and has begun to be the application


def fresh() -> None:
    """In a fresh child: signals as a program expects them."""
    signals.default()
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, WAITED)


def serve(spec: Spec) -> int:
    """Run an application in the mesh; the exit status."""
    try:
        return Runner(spec, Log("run", spec["log_format"], spec["log_level"])).run()
    finally:
        sys.stdout = sys.stderr = None  # nothing is buffered, and a closed pipe must not change the status
