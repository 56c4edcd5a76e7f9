"""One fuzz target under libFuzzer (atheris), started by run.py: `worker.py TARGET PROGRAM [options] CORPUS`.

atheris itself must be there; the instrumented modules (instrument.py) come first on the path.
"""

from __future__ import annotations

import sys

import atheris

from shim import bridge_fuzz, h1_fuzz, h2_fuzz, hello_fuzz, hpack_fuzz

SHIMS = (h1_fuzz, hpack_fuzz, h2_fuzz, bridge_fuzz, hello_fuzz)


def main() -> None:
    target = sys.argv[1]
    shim = next(shim for shim in SHIMS if target in shim.TARGETS)

    def one(data: bytes) -> None:
        shim.run(target, data)

    atheris.Setup(sys.argv[2:], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
