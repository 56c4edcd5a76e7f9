"""Signals without the `signal` module: its enums cost 0.8 MB in a process that lives as long as a sidecar.

Owns the names of the few signals that the processes use and the pipe through which the arbiter takes them.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

SIGHUP: int = _signal.SIGHUP
SIGINT: int = _signal.SIGINT
SIGQUIT: int = _signal.SIGQUIT
SIGKILL: int = _signal.SIGKILL
SIGUSR1: int = _signal.SIGUSR1
SIGUSR2: int = _signal.SIGUSR2
SIGTERM: int = _signal.SIGTERM
SIGCHLD: int = _signal.SIGCHLD
SIGPIPE: int = _signal.SIGPIPE

ORDERS = (SIGTERM, SIGINT, SIGHUP, SIGUSR1)
NAMES = {
    SIGHUP: "SIGHUP",
    SIGINT: "SIGINT",
    SIGQUIT: "SIGQUIT",
    SIGKILL: "SIGKILL",
    SIGTERM: "SIGTERM",
    SIGPIPE: "SIGPIPE",
    int(_signal.SIGSEGV): "SIGSEGV",
    int(_signal.SIGABRT): "SIGABRT",
    int(_signal.SIGBUS): "SIGBUS",
    int(_signal.SIGILL): "SIGILL",
    int(_signal.SIGFPE): "SIGFPE",
}


def _noted(number: int, frame: object) -> None:
    """The number is in the wake-up pipe already; the main loop acts on it."""


def open_pipe() -> int:
    """Take the arbiter's signals from now on; the descriptor from which their numbers are read (one byte
    each)."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    _signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (*ORDERS, SIGCHLD):
        _signal.signal(number, _noted)
    return reader


def block() -> None:
    """Hold back what a terminal or service manager sends to the whole group: a child is born with it
    blocked."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, ORDERS)


def unblock() -> None:
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, ORDERS)


def child(unblocked: bool) -> None:
    """In a fresh child: nothing of the arbiter's signals is left. Orders come another way, so they are
    ignored or stay blocked."""
    _signal.set_wakeup_fd(-1)
    _signal.signal(SIGCHLD, _signal.SIG_DFL)
    for number in ORDERS:
        _signal.signal(number, _signal.SIG_IGN)
    if unblocked:
        unblock()


def default() -> None:
    """Undo every handler of this process; for a child that is about to exec."""
    for number in (*ORDERS, SIGCHLD, SIGPIPE):
        _signal.signal(number, _signal.SIG_DFL)


def describe(status: int) -> str:
    """A wait status in words."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"killed by {NAMES.get(number, f'signal {number}')}"
    return f"exited with status {os.waitstatus_to_exitcode(status)}"
