"""h2spec, the conformance tests of HTTP/2 servers: built once with Go into build/, at a pinned version."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGE = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"
BUILD = Path(__file__).parents[2] / "build"


def binary() -> Path:
    """The program; skips the test where there is no Go or it cannot fetch the source."""
    go = shutil.which("go")
    target = BUILD / "h2spec"
    if not target.exists() and go is None:
        pytest.skip("h2spec needs a Go toolchain (go), and there is none")
    BUILD.mkdir(exist_ok=True)
    with (BUILD / ".h2spec.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test workers start together
        if not target.exists():
            environment = {**os.environ, "GOBIN": str(BUILD)}
            done = subprocess.run(
                [str(go), "install", PACKAGE], capture_output=True, text=True, env=environment, timeout=300
            )
            if done.returncode:
                pytest.skip(f"h2spec cannot be built here: {done.stderr.strip().splitlines()[-1:]}")
    return target


def run(port: int, *options: str) -> str:
    """Every case in strict mode; the names and output of those that failed, empty when all passed."""
    command = [str(binary()), "-h", "127.0.0.1", "-p", str(port), "--strict", "-o", "5", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    summary = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", done.stdout)
    if summary and summary[1] == summary[2] and done.returncode == 0:
        return ""
    return done.stdout + done.stderr
