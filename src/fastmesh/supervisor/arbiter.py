"""The arbiter: the process that a user starts. It binds, forks, reaps, restarts, takes signals; nothing else.

Owns the listening sockets, the shared memory's making, the children. Must not know HTTP or what a config
means, and imports nothing heavy: what is loaded here is in every process of every sidecar.

    HUP   edge: compile the file again; what is wrong with it is logged and the old config serves on
    TERM  drain: no new connections, finish what is in flight (at most drain_time), leave with 0; INT too
    TERM  once more: leave now
    USR1  reopen the access log
Exit statuses: 0 asked to leave, 1 cannot start, 2 wrong usage or config, 3 workers crash again and again, 5
the control plane refuses this sidecar and there is nothing to serve.
"""

from __future__ import annotations

import gc
import os
import select
import time

from fastmesh.supervisor import signals
from fastmesh.supervisor.channel import Channel
from fastmesh.supervisor.compiler import Compilation, Compiled
from fastmesh.supervisor.crew import LOOK_SECONDS, Crew, fork, rename
from fastmesh.supervisor.listeners import BindError, Sets, open_listener
from fastmesh.supervisor.log import Log
from fastmesh.supervisor.spec import sidecar_listeners

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastmesh.supervisor.compiler import Listeners
    from fastmesh.supervisor.crew import RunWorker
    from fastmesh.supervisor.spec import Spec

    RunAgent = Callable[[Spec, Any, Channel, int, int, Log], int]

EXIT_START, EXIT_CONFIG, EXIT_CRASH_LOOP = 1, 2, 3
# The agent is restarted for ever: workers serve without it. The wait doubles up to the maximum.
AGENT_BACKOFF, AGENT_BACKOFF_MAX, AGENT_GOOD_SECONDS = 0.1, 5.0, 30.0
# The agent answers a ping at every look at the workers. After this many without an answer it hangs and is
# killed: what it had published is served on, but certificates would end and configs not change.
AGENT_SILENT_LOOKS = 10
# A sidecar says goodbye before it stops to accept, so that others do not send to it any more: the longest
# wait for it.
GOODBYE_SECONDS = 1.0
# The agent's last words (log records, goodbye) after the last worker is gone.
AGENT_STOP_SECONDS = 3.0
# Workers are forked when the first config is published: until then connections queue instead of getting an
# error. A sidecar that gets none for this long begins to refuse.
FIRST_CONFIG_SECONDS = 1.0
# While something is starting the arbiter looks this often.
START_POLL_SECONDS, START_POLL_MAX = 0.02, 0.5

SERVING, SAYING_GOODBYE, DRAINING, STOPPING = range(4)


class StartError(Exception):
    """Why the proxy cannot start; `status` is the exit status."""

    def __init__(self, reason: str, status: int = EXIT_START) -> None:
        super().__init__(reason)
        self.status = status


class Arbiter:
    """One proxy's life, from bind to the last reaped child."""

    def __init__(
        self,
        spec: Spec,
        log: Log,
        make_segment: Callable[[int], Any],
        run_worker: RunWorker,
        run_agent: RunAgent,
    ) -> None:
        self.spec = spec
        self.log = log
        self.phase = SERVING
        self.status: int | None = None
        self._make_segment = make_segment
        self._run_worker = run_worker
        self._run_agent = run_agent
        self._poll = select.poll()
        self._signals = -1
        self._admin = -1
        self._config = -1  # edge: the compiled config in force
        self._channel: Channel | None = None
        self._agent = 0
        self._agent_due = 0.0
        self._agent_born = 0.0
        self._agent_wait = 0.0
        self._agent_deadline = 0.0
        self._agent_silent = 0
        self._goodbye_deadline = 0.0
        self._compilation: Compilation | None = None
        self._candidate: tuple[Compiled, Sets | None] | None = None
        self._reload_wanted = False
        self._serial = 0
        self._next: Crew | None = None  # started by a reload, takes over when it serves
        self._leaving: list[Crew] = []
        self._look_at = 0.0
        self._workers_due = 0.0  # when to fork the first workers without a config; 0: they have been
        self._announced = False
        self._runner: Channel | None = None  # of `fastmesh run`
        self._retired = False  # the runner wants no more requests to its application

    # --- start

    def run(self) -> int:
        """Serve until told to leave; the exit status."""
        try:
            self._start()
        except (StartError, BindError) as error:
            self.log.error(str(error))
            return error.status if isinstance(error, StartError) else EXIT_START
        while self.status is None:
            self._turn()
        if self.spec["ephemeral"]:
            remove_directory(self.spec["state"])
        return self.status

    def _start(self) -> None:
        rename("fastmesh")
        self._signals = signals.open_pipe()
        self._poll.register(self._signals, select.POLLIN)
        if (fd := self.spec.get("runner")) is not None:
            os.set_inheritable(fd, False)
            self._runner = Channel.of(fd)
            self._poll.register(fd, select.POLLIN)
        listeners = self._first_listeners()
        workers = self.spec["workers"]
        sets = Sets(listeners, workers)
        if self.spec["admin"] is not None:
            self._admin = open_listener(*self.spec["admin"], shared=False)
        # An edge can be given new ports: the crew that has them starts on the other half of the rows.
        self.segment = self._make_segment(workers * 2 if self.spec["role"] == "edge" else workers)
        self.segment.set_log(self.spec["access_log"] != "off")
        self.crew = self._new_crew(sets, 0)
        gc.collect()
        gc.freeze()  # what is there now is never looked at again: children keep sharing its pages
        gc.disable()
        self._start_agent()
        self._workers_due = time.monotonic() + FIRST_CONFIG_SECONDS

    def _first_listeners(self) -> Listeners:
        if self.spec["role"] == "sidecar":
            return sidecar_listeners(self.spec["sidecar"])
        compilation = Compilation(
            self.spec["file"], self.spec["node_id"], self.spec["locality"], self.log, lambda: None
        )
        compiled = compilation.result(os.waitpid(compilation.pid, 0)[1])
        self._report(compiled)
        if compiled.errors:
            raise StartError(f"{self.spec['file']} cannot be used", EXIT_CONFIG)
        self._config = compiled.fd
        return compiled.listeners

    def _report(self, compiled: Compiled) -> None:
        for text in compiled.errors:
            self.log.error(text)
        for text in compiled.warnings:
            self.log.warning(text)

    def _new_crew(self, sets: Sets, first: int) -> Crew:
        return Crew(
            self.segment,
            sets,
            first,
            self._run_worker,
            self.spec["options"],
            self.log,
            self._forget_in_worker,
        )

    def _forget_in_worker(self, own: Crew) -> None:
        self._forget(own)
        if self._admin >= 0:
            os.close(self._admin)

    def _forget(self, own: Crew | None = None) -> None:
        """In a fresh child: close what is the arbiter's, and sockets that are not of the child's own crew: a
        port that is given up must not stay open in some process."""
        os.close(self._signals)
        for channel in (self._channel, self._runner):
            if channel is not None:
                channel.close()
        for crew in self._crews():
            if crew is not own:
                crew.sets.close()
        if self._candidate is not None and self._candidate[1] is not None:
            self._candidate[1].close()

    # --- the agent

    def _start_agent(self) -> None:
        try:
            ours, theirs = Channel.pair()
        except OSError as error:
            self.log.error(f"no agent can be started: {error.strerror}")
            self._agent_due = time.monotonic() + AGENT_BACKOFF_MAX
            return

        def work() -> int:
            ours.close()  # or the end of the arbiter would go unnoticed
            self._forget()
            return self._run_agent(
                self.spec, self.segment, theirs, self._admin, self._config, self.log.named("agent")
            )

        try:
            self._agent = fork("fastmesh-agent", True, work, self.log.named("agent"))
        except OSError as error:
            self.log.error(f"the agent cannot be forked: {error.strerror}")
            ours.close()
            theirs.close()
            self._agent_due = time.monotonic() + AGENT_BACKOFF_MAX
            return
        theirs.close()
        self._agent_born = time.monotonic()
        self._agent_silent = 0
        self._channel = ours
        self._poll.register(ours.fd, select.POLLIN)
        if self._candidate is not None:
            self._offer(self._candidate[0])
        if self._retired:
            self._tell_agent("retire")

    def _agent_ended(self, pid: int, status: int) -> None:
        self._agent = 0
        self._drop_channel()
        if self.phase != SERVING:
            return
        now = time.monotonic()
        if now - self._agent_born > AGENT_GOOD_SECONDS:
            self._agent_wait = 0.0
        self._agent_due = now + self._agent_wait
        self.log.error(
            f"the agent {signals.describe(status)}; it is replaced, workers go on",
            pid=pid,
            wait=self._agent_wait,
        )
        self._agent_wait = min(max(AGENT_BACKOFF, self._agent_wait * 2), AGENT_BACKOFF_MAX)

    def _look_at_agent(self) -> None:
        if not self._agent:
            return
        self._tell_agent("ping")
        self._agent_silent += 1
        if self._agent_silent > AGENT_SILENT_LOOKS:
            self.log.error("the agent does not answer: killed", pid=self._agent)
            os.kill(self._agent, signals.SIGKILL)

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._poll.unregister(self._channel.fd)
            self._channel.close()
            self._channel = None

    def _tell_agent(self, kind: str, *values: int | str, fd: int | None = None) -> bool:
        return self._channel is not None and self._channel.send(kind, *values, fd=fd)

    def _hear_agent(self) -> None:
        while self._channel is not None:
            try:
                received = self._channel.receive()
            except EOFError:
                self._drop_channel()
                return
            if received is None:
                return
            (kind, values), _ = received
            self._agent_silent = 0
            if kind == "published":
                self._adopted(int(values[0]))
            elif kind == "rejected":
                self._rejected(int(values[0]), str(values[1]))
            elif kind == "goodbye":
                self._goodbye_deadline = 0.0
            elif kind == "fatal":
                self.log.error(str(values[1]))
                self._abandon(int(values[0]))
            elif kind == "quiet":
                self._tell_runner("quiet")
            elif kind == "drain" and not self._tell_runner("stop"):
                self._leave("the admin endpoint")

    # --- the runner of `fastmesh run`, whose orders take the place of TERM and INT

    def _tell_runner(self, kind: str) -> bool:
        return self._runner is not None and self._runner.send(kind)

    def _hear_runner(self) -> None:
        while self._runner is not None:
            try:
                received = self._runner.receive()
            except EOFError:
                self._poll.unregister(self._runner.fd)
                self._runner.close()
                self._runner = None
                self._leave("the end of its runner")
                return
            if received is None:
                return
            (kind, _), _ = received
            if kind == "leave":
                self._leave("its runner")
            elif kind == "retire":
                self._retired = True
                if not self._tell_agent("retire"):
                    self._tell_runner("quiet")

    # --- the main loop

    def _turn(self) -> None:
        for fd, _ in self._poll.poll(self._timeout() * 1000):
            if fd == self._signals:
                self._take_signals()
            elif self._runner is not None and fd == self._runner.fd:
                self._hear_runner()
            else:
                self._hear_agent()
        if self.status is not None:
            return
        now = time.monotonic()
        if not self._agent and self.phase == SERVING and self._agent_due <= now:
            self._start_agent()
        for crew in self._crews():
            crew.tend()
            if reason := crew.crash_loop():
                self.log.error(f"{reason}: giving up")
                self._abandon(EXIT_CRASH_LOOP)
                return
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            for crew in self._crews():
                crew.look()
            self._look_at_agent()
        self._advance(now)

    def _timeout(self) -> float:
        now = time.monotonic()
        if self._next is not None:
            return START_POLL_SECONDS
        if not self._announced:
            # A sidecar may wait for its control plane for hours.
            return min(START_POLL_MAX, max(START_POLL_SECONDS, (now - self._agent_born) / 20))
        times = [self._look_at]
        times += [due for crew in self._crews() if (due := crew.next_due()) is not None]
        if not self._agent and self.phase == SERVING:
            times.append(self._agent_due)
        if self.phase == SAYING_GOODBYE:
            times.append(now + START_POLL_SECONDS)
        if self._agent_deadline:
            times.append(self._agent_deadline)
        return max(0.0, min(times) - now)

    def _crews(self) -> list[Crew]:
        return [crew for crew in (self.crew, self._next, *self._leaving) if crew is not None]

    def _take_signals(self) -> None:
        try:
            numbers = os.read(self._signals, 4096)
        except BlockingIOError:
            return
        for number in numbers:
            if number in (signals.SIGTERM, signals.SIGINT):
                if self._runner is not None:
                    self.log.info(
                        f"{signals.NAMES[number]}: left to `fastmesh run`, which ends with its application"
                    )
                    continue
                self._leave(signals.NAMES[number])
            elif number == signals.SIGHUP:
                self._reload()
            elif number == signals.SIGUSR1:
                self._tell_agent("reopen")
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._agent:
                self._agent_ended(pid, status)
            elif self._compilation is not None and pid == self._compilation.pid:
                compilation, self._compilation = self._compilation, None
                self._compiled(compilation.result(status))
            else:
                # As pid 1 of a container, orphans of others are reaped here too.
                any(crew.ended(pid, status) for crew in self._crews())

    def _advance(self, now: float) -> None:
        """Steps that wait for what workers or the agent have done."""
        self._leaving = [crew for crew in self._leaving if crew.pids()]
        if (
            self._workers_due
            and (self.segment.generation or self._workers_due <= now)
            and self.phase == SERVING
        ):
            self._workers_due = 0.0
            self.crew.start()
        if self._next is not None and self._next.serving():
            self._take_over(self._next)
        if not self._announced and self.crew.serving():
            self._announced = True
            self._tell_runner("ready")
            ports = " ".join(f"{name}={address}:{port}" for name, address, port in self.crew.sets.listeners)
            self.log.info(f"serving {ports}", workers=len(self.crew.slots))
            from fastmesh._core.shm.segment import trim_memory

            trim_memory()  # what only the start needed
        if self.phase == SERVING and self._reload_wanted and not self._busy():
            self._reload()
        if self.phase == SAYING_GOODBYE and self._goodbye_deadline <= now:
            self._drain()
        if self.phase in (DRAINING, STOPPING) and not any(crew.pids() for crew in self._crews()):
            self._finish(now)

    # --- reload

    def _busy(self) -> bool:
        return bool(self._compilation or self._candidate or self._next or self._leaving)

    def _reload(self) -> None:
        if self.spec["role"] != "edge" or self.phase != SERVING:
            self.log.info("HUP: nothing to reload")
            return
        self._reload_wanted = self._busy()
        if not self._reload_wanted:
            self.log.info(f"reloading {self.spec['file']}")
            try:
                self._compilation = Compilation(
                    self.spec["file"], self.spec["node_id"], self.spec["locality"], self.log, self._forget
                )
            except OSError as error:  # no descriptor or process is left: no reason to stop serving
                self.log.error(f"reload refused: {error.strerror}; the old config serves on")

    def _compiled(self, compiled: Compiled) -> None:
        self._report(compiled)
        if compiled.errors:
            self.log.error("reload refused: the old config serves on")
            return
        sets = None
        if sorted(compiled.listeners) != sorted(self.crew.sets.listeners):
            try:
                sets = Sets(compiled.listeners, self.spec["workers"], known=self.crew.sets)
            except (BindError, OSError) as error:
                self.log.error(f"reload refused: {error}; the old config serves on")
                os.close(compiled.fd)
                return
        self._serial += 1
        self._candidate = compiled, sets
        self._offer(compiled)

    def _offer(self, compiled: Compiled) -> None:
        """Hand a compiled config to the agent; if it is away its successor gets it."""
        self._tell_agent("config", self._serial, fd=compiled.fd)

    def _adopted(self, serial: int) -> None:
        if self._candidate is None or serial != self._serial:
            return
        compiled, sets = self._candidate
        self._candidate = None
        os.close(self._config)
        self._config = compiled.fd
        if sets is None or self.phase != SERVING:
            self.log.info("reloaded")
            return
        first = self.spec["workers"] - self.crew.first
        self._next = self._new_crew(sets, first)
        self._next.start()

    def _rejected(self, serial: int, reason: str) -> None:
        if serial == 0 and self._workers_due:
            self.log.error(f"{self.spec['file']} cannot be served: {reason}")
            self._abandon(EXIT_CONFIG)
        if self._candidate is None or serial != self._serial:
            return
        compiled, sets = self._candidate
        self._candidate = None
        os.close(compiled.fd)
        if sets is not None:
            sets.close()
        self.log.error(f"reload refused: {reason}; the old config serves on")

    def _take_over(self, crew: Crew) -> None:
        """The new crew accepts: the old one's sockets are closed and it drains."""
        old, self.crew, self._next = self.crew, crew, None
        self._retire(old)
        self._leaving.append(old)
        ports = " ".join(f"{name}={address}:{port}" for name, address, port in crew.sets.listeners)
        self.log.info(f"reloaded; serving {ports}")

    def _retire(self, crew: Crew) -> None:
        crew.sets.close()
        crew.drain(self.spec["drain_time"])

    # --- the end

    def _leave(self, why: str) -> None:
        if self.phase == SERVING:
            self.log.info(f"{why}: draining, at most {self.spec['drain_time']:g} s")
            self.phase = SAYING_GOODBYE
            self._announced = True
            self._goodbye_deadline = time.monotonic() + GOODBYE_SECONDS if self._tell_agent("drain") else 0.0
            return
        if self.phase != STOPPING:
            self.log.info(f"{why} again: leaving now")
            self.phase = STOPPING
            for crew in self._crews():
                crew.stop()

    def _drain(self) -> None:
        self.phase = DRAINING
        if self._next is not None:
            self._leaving.append(self._next)
            self._next = None
        for crew in self._crews():
            if not crew.leaving:
                self._retire(crew)

    def _finish(self, now: float) -> None:
        """The workers are gone: the agent writes what is left to write, then the arbiter leaves."""
        if not self._agent:
            self.log.info("left")
            self.status = 0
        elif not self._agent_deadline:
            self._agent_deadline = now + AGENT_STOP_SECONDS
            self._tell_agent("stop")
        elif self._agent_deadline <= now:
            os.kill(self._agent, signals.SIGKILL)
            self._agent_deadline = now + AGENT_STOP_SECONDS

    def _abandon(self, status: int) -> None:
        for crew in self._crews():
            crew.kill()
        if self._agent:
            os.kill(self._agent, signals.SIGKILL)
        self.status = status


def remove_directory(path: str) -> None:
    """A state directory made for this proxy alone: files, no directories."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                os.unlink(entry.path)
        os.rmdir(path)
    except OSError:
        return


def serve(spec: Spec) -> int:
    """Run a proxy with the real workers and agent."""
    log = Log("arbiter", spec["log_format"], spec["log_level"])
    from fastmesh._core.proxy.worker import run_worker
    from fastmesh._core.shm.segment import Segment

    def run_agent(spec: Spec, segment: Any, channel: Channel, admin: int, config: int, log: Log) -> int:
        from fastmesh.agent.main import Agent

        return Agent(spec, segment, channel, admin, config, log).run()

    return Arbiter(spec, log, Segment.create, run_worker, run_agent).run()
