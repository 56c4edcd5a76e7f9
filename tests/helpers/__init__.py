"""What tests of several parts share: ports and waiting (net), processes (procs), Cython source (cysource)."""

from __future__ import annotations

from helpers.net import free_port, port_open, wait_for, wait_port
from helpers.procs import Process

__all__ = ["Process", "free_port", "port_open", "wait_for", "wait_port"]
