"""Where the arbiter's process begins, executed by `spec.launch` in a bare Python (-I -S)."""

from __future__ import annotations

import os
import sys


def main() -> int:
    # No module of fastmesh can be imported before its directory is known: it is this file's, two levels up.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from fastmesh.supervisor.spec import receive

    spec = receive()
    if "run" in spec:
        from fastmesh.supervisor.runner import serve as run

        return run(spec)
    from fastmesh.supervisor.arbiter import serve

    return serve(spec)


if __name__ == "__main__":
    sys.exit(main())
