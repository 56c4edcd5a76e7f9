"""Small secret files of the control plane: written whole or not at all, readable by their owner alone.

Owns how such a file is written; knows nothing of what is in it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fastmesh_control.store import StateError


def write_secret(path: Path, data: bytes) -> None:
    """Write a file (0600) by temporary file, fsync and rename; StateError when it cannot be done."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StateError(f"{path} cannot be written: {error.strerror or error}") from error


def read_secret(path: Path) -> bytes | None:
    """The content of such a file, None when there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror or error}") from error
