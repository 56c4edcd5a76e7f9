"""Compiles the C instruments on demand into bench/.build (ignored by git).

Owns: which C file becomes which tool. Must not know: what the tools are used for.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD_DIR = HERE / ".build"

# tool: (source, extra arguments). The backend is static so that it shares no library page with a proxy: PSS
# divides what is shared, and a proxy's memory would look smaller than it is.
TOOLS: dict[str, tuple[str, list[str]]] = {
    "floor": ("floor/floor.c", []),
    "floor-tls": ("floor/floor.c", ["-DWITH_TLS", "-lssl", "-lcrypto"]),
    "backend": ("load/backend.c", ["-static"]),
    "backend-h2": ("load/backend_h2.c", ["-static"]),
    "load": ("load/load.c", ["-lssl", "-lcrypto"]),
    "grpc": ("load/grpc.c", []),
    "stream": ("load/stream.c", []),
}


class BuildError(RuntimeError):
    """A tool did not compile; the message is the compiler's."""


def tool(name: str) -> Path:
    """The path of the compiled tool, compiled now if its source is newer."""
    source_name, extra = TOOLS[name]
    source, target = HERE / source_name, BUILD_DIR / name
    if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
        return target
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BuildError("no C compiler: apt-get install gcc libc6-dev libssl-dev")
    BUILD_DIR.mkdir(exist_ok=True)
    fresh = BUILD_DIR / f"{name}.new"
    done = subprocess.run(
        [compiler, "-O2", "-Wall", "-Wextra", "-o", str(fresh), str(source), *extra],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"{source_name}: {done.stderr.strip()}")
    fresh.replace(target)
    return target


def build_all() -> dict[str, Path]:
    if shutil.which("openssl") is None:
        raise BuildError("no openssl command: apt-get install openssl")
    return {name: tool(name) for name in TOOLS}
