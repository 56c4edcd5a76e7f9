"""Coverage-guided fuzzing of proto/*: `python tests/fuzz/run.py --seconds 60`.

Exit status 1 on a crash or a broken invariant. Each target (shim/*_fuzz.pyx) gets an equal share of the
time, under libFuzzer (by way of atheris), AddressSanitizer and UBSan. What is found grows in
build/fuzz/corpus; an input that fails stays in build/fuzz/failures: copy it to tests/fuzz/corpus/TARGET,
where the normal test suite runs it. `--keep` reduces what has grown to the inputs that cover something, for
tests/fuzz/corpus.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import instrument
import seeds

TARGETS = (
    "request", "response", "chunked", "authority", "hpack", "hpack_fields", "h2_server", "h2_client",
    "bridge_request", "bridge_response", "bridge_trailers", "carry_request", "carry_response",
    "client_hello", "sniff",
)  # fmt: skip
MAX_INPUT = 4096
GROWN = instrument.TREE / "corpus"
FAILURES = instrument.TREE / "failures"
# Beyond its share: start-up, reading the corpus, and one slow input.
GRACE_SECONDS = 120
REPORT_CHARS = 12_000  # of the log of a target that failed
MAX_FILES = 40  # of the grown corpus in the repository, for each target: the shortest


def runtime() -> Path | None:
    """atheris' library with libFuzzer and AddressSanitizer."""
    spec = importlib.util.find_spec("atheris")
    if spec is None or spec.origin is None:
        return None
    library = Path(spec.origin).parents[1] / "asan_with_fuzzer.so"
    return library if library.exists() else None


def skip_reason() -> str | None:
    if runtime() is None:
        return "atheris is not installed (pip install atheris; it has wheels for x86-64 Linux)"
    if shutil.which("gcc") is None:
        return "gcc is not installed"
    return None


def prepare(target: str) -> Path:
    """The grown corpus of a target, with all seeds in it."""
    folder = GROWN / target
    folder.mkdir(parents=True, exist_ok=True)
    for data in seeds.inputs(target):
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    return folder


def worker(target: str, options: list[str], library: Path, timeout: int) -> int:
    env = {
        **os.environ,
        "PYTHONPATH": str(library),
        "LD_PRELOAD": str(runtime()),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    # libFuzzer starts itself again for a merge, by its first argument: so that must be a program
    program = instrument.TREE / f"fuzz-{target}"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {seeds.HERE}/worker.py {target} "$0" "$@"\n')
    program.chmod(0o755)
    command = [str(program), *options]
    log = instrument.TREE / f"{target}.log"
    with log.open("w") as out:
        try:
            done = subprocess.run(command, env=env, timeout=timeout, check=False, stdout=out, stderr=out)
            status = done.returncode
        except subprocess.TimeoutExpired:
            out.write(f"{target}: still running after {timeout} s\n")
            status = 1
    text = log.read_text(errors="replace")
    if status:
        sys.stderr.write(text[-REPORT_CHARS:])
    else:
        # e.g. "#953299 DONE cov: 876 ft: 4316 corp: 931/194Kb lim: 2247 exec/s: 45395 rss: 575Mb"
        summary = [line for line in text.splitlines() if "DONE" in line or line.startswith("MERGE-OUTER")]
        sys.stdout.write(f"   {summary[-1].strip() if summary else 'done'}\n")
        sys.stdout.flush()
    return status


def fuzz(target: str, seconds: int, library: Path, seed: int) -> int:
    FAILURES.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_INPUT}",
        "-timeout=10",
        f"-seed={seed}",
        f"-dict={seeds.HERE / 'http1.dict'}",
        f"-artifact_prefix={FAILURES}/{target}-",
        str(prepare(target)),
    ]
    return worker(target, options, library, seconds + GRACE_SECONDS)


def keep(target: str, library: Path) -> int:
    """Reduce the grown corpus by coverage; what the seeds do not cover goes into the repository."""
    reduced = instrument.TREE / "reduced" / target
    shutil.rmtree(reduced, ignore_errors=True)
    reduced.mkdir(parents=True)
    for data in seeds.inputs(target):
        (reduced / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    known = {path.name for path in reduced.iterdir()}
    status = worker(target, ["-merge=1", str(reduced), str(GROWN / target)], library, GRACE_SECONDS * 5)
    if status == 0:
        folder = seeds.CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        found = [path for path in reduced.iterdir() if path.name not in known]
        found.sort(key=lambda path: (path.stat().st_size, path.name))
        for path in found[:MAX_FILES]:
            shutil.copyfile(path, folder / path.name[:16])
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one (may be repeated)")
    parser.add_argument("--seed", type=int, default=0, help="libFuzzer's seed; 0: another one each time")
    parser.add_argument("--keep", action="store_true", help="put what was found into tests/fuzz/corpus")
    arguments = parser.parse_args()
    reason = skip_reason()
    if reason:
        sys.stderr.write(f"fuzzing skipped: {reason}\n")
        return 0
    library = instrument.build()
    targets = arguments.target or list(TARGETS)
    failed = []
    for target in targets:
        sys.stdout.write(f"== {target}\n")
        sys.stdout.flush()
        if arguments.keep:
            status = keep(target, library)
        else:
            status = fuzz(target, max(1, arguments.seconds // len(targets)), library, arguments.seed)
        if status:
            failed.append(target)
    if failed:
        sys.stderr.write(f"fuzzing failed: {', '.join(failed)}; inputs are in {FAILURES}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
