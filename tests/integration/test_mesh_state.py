"""Disks: full, unwritable, gone, with corrupt files on them. Always told, never a crash, traffic goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import Process, wait_for
from helpers.app import App
from helpers.mesh import START_SECONDS, Load, Mesh, Sidecar, running

ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: [reviews]
  http:
  - headers: {{response: {{set: {{x-word: "{word}"}}}}}}
    route: [{{destination: {{host: reviews}}}}]
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("state")) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def reviews(mesh: Mesh) -> Sidecar:
    return mesh.sidecar("reviews", app=App("reviews"))


@contextlib.contextmanager
def small_disk(path: Path, kilobytes: int = 512) -> Iterator[Path]:
    """A file system of its own."""
    path.mkdir()
    options = ["-o", f"size={kilobytes}k,mode=700", "tmpfs"]
    done = subprocess.run(["mount", "-t", "tmpfs", *options, path], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def fill(disk: Path) -> Path:
    """Not a byte is left after this."""
    file = disk / "filler"
    with file.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while True:
            out.write(bytes(1024))
    return file


def kept(sidecar: Sidecar) -> None:
    """Until what a restart needs is on disk."""
    wait_for(
        lambda: (sidecar.state / "topics").exists() and (sidecar.state / "identity").exists(),
        what=f"{sidecar.name}'s files",
    )


def test_a_sidecar_with_a_full_disk_serves_and_keeps_what_it_can_later(
    mesh: Mesh, reviews: Sidecar, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        filler = fill(disk)
        web = mesh.sidecar("web", "--state", str(disk), app=App("web"))
        mesh.reaches(web, "reviews", reviews)
        assert web.get("reviews").status == 200
        web.process.wait_output("identity cannot be kept in .*No space left.*served from memory")
        assert web.stat("identity_persisted") == 0
        mesh.apply(ROUTE.format(name="disk", word="new"))
        assert web.get("reviews").headers["x-word"] == "new"
        web.process.wait_output("topics.*No space left")
        filler.unlink()
        mesh.apply(ROUTE.format(name="disk", word="newer"))
        wait_for(lambda: (disk / "topics").exists(), what="the copy, now that there is space")
        assert web.process.stop() == 0
    mesh.delete("virtualservice", "disk")


def test_a_sidecar_whose_state_directory_cannot_be_made_serves(
    mesh: Mesh, reviews: Sidecar, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    web = mesh.sidecar("web", "--state", str(tmp_path / "file/state"), app=App("web"))
    assert "warning: --state" in web.process.stderr
    mesh.reaches(web, "reviews", reviews)
    assert web.get("reviews").status == 200
    assert web.process.stop() == 0
    assert "Traceback" not in web.process.stderr


def test_a_state_directory_that_is_taken_away_costs_nothing(mesh: Mesh, reviews: Sidecar) -> None:
    web = mesh.sidecar("web", app=App("web"))
    mesh.reaches(web, "reviews", reviews)
    kept(web)
    with Load(web.outbound, "reviews") as load:
        shutil.rmtree(web.state)
        web.state.write_text("a file, where the directory was")
        mesh.apply(ROUTE.format(name="gone", word="after"))
        web.process.wait_output("topics.*(Not a directory|cannot)")
        assert web.get("reviews").headers["x-word"] == "after"
        load.more(20)
    assert load.bad == []
    assert web.process.stop() == 0
    mesh.delete("virtualservice", "gone")


def test_a_control_plane_with_a_full_disk_refuses_and_everything_serves_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2048) as disk:
        mesh = Mesh(tmp_path)
        mesh.state = disk / "state"
        try:
            mesh.start()
            app = App("reviews")
            reviews = mesh.sidecar("reviews", app=app)
            web = mesh.sidecar("web", app=App("web"))
            mesh.reaches(web, "reviews", reviews)
            mesh.apply(ROUTE.format(name="r", word="old"))
            filler = fill(disk)
            # A change that is surely larger than what is left in the database's own pages.
            big = ROUTE.format(name="r", word="x" * 50_000)
            done = mesh.cli("apply", "-f", mesh.file(big), "--wait", status=1)
            assert "nothing was changed" in done.stderr and "Traceback" not in done.stderr
            assert mesh.cli("get", "virtualservice", "r", "-o", "yaml").stdout.count("old") == 1
            assert web.get("reviews").headers["x-word"] == "old"
            # Workloads still come and go: that is not lost with the process, they tell it again.
            reviews.process.stop()
            mesh.reaches(web, "reviews")
            reviews.start()
            mesh.reaches(web, "reviews", reviews)
            filler.unlink()
            mesh.apply(ROUTE.format(name="r", word="new"))
            assert web.get("reviews").headers["x-word"] == "new"
            assert mesh.control.alive and "Traceback" not in mesh.control.stderr
        finally:
            mesh.close()


def test_a_control_plane_does_not_start_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        fill(disk)
        process = Process(["fastmesh", "control", "--state", disk / "state"], tmp_path, name="control")
        try:
            assert process.wait(START_SECONDS) == 1
            assert "No space left" in process.stderr or "cannot be written" in process.stderr
            assert "Traceback" not in process.stderr
        finally:
            process.kill()


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "flipped": lambda data: data[:99] + bytes([data[99] ^ 1]) + data[100:],
    "last byte": lambda data: data[:-1],
    "other": lambda data: b"\x81\xa6format\xcf" + b"\xff" * 8,
}


@pytest.mark.parametrize("how", SPOILED)
def test_corrupt_files_are_told_and_ignored(mesh: Mesh, reviews: Sidecar, how: str) -> None:
    web = mesh.sidecar("web", app=App("web"))
    mesh.reaches(web, "reviews", reviews)
    kept(web)
    before = web.serials()
    assert web.process.stop() == 0
    for name in ("identity", "topics"):
        file = web.state / name
        file.write_bytes(SPOILED[how](file.read_bytes()))
    web.start()
    web.process.wait_output("topics.*cannot be used")
    web.process.wait_output("identity.*cannot be used.*joining anew")
    assert not web.serials() & before
    assert "Traceback" not in web.process.stderr
    mesh.reaches(web, "reviews", reviews)
    assert web.get("reviews").status == 200
    assert web.process.stop() == 0


def test_without_control_plane_and_with_a_corrupt_copy_nothing_is_served_until_it_is_back(
    mesh: Mesh, reviews: Sidecar
) -> None:
    web = mesh.sidecar("web", app=App("web"))
    mesh.reaches(web, "reviews", reviews)
    kept(web)
    assert web.process.stop() == 0
    (web.state / "topics").write_bytes(b"garbage")
    mesh.kill_control()
    web.start(ready=False)
    web.process.wait_output("topics.*cannot be used")
    wait_for(lambda: web.view("/ready")[0] == 503, what="the admin endpoint")
    assert "no config yet" in web.view("/ready")[1]
    mesh.start()
    web.wait_ready()
    mesh.reaches(web, "reviews", reviews)
    assert web.get("reviews").status == 200
    assert web.process.stop() == 0


def test_the_identity_of_another_service_is_not_taken_for_ones_own(mesh: Mesh, reviews: Sidecar) -> None:
    kept(reviews)
    web = mesh.sidecar("web", app=App("web"))
    mesh.reaches(web, "reviews", reviews)
    kept(web)
    assert web.process.stop() == 0
    shutil.copy(reviews.state / "identity", web.state / "identity")
    web.start()
    web.process.wait_output("is spiffe://cluster.local/ns/default/sa/reviews's, not .*joining anew")
    mesh.reaches(web, "reviews", reviews)
    web.get("reviews", "/as-web")
    line = reviews.logged(lambda e: e["path"] == "/as-web")
    assert line["peer_uri_san"] == "spiffe://cluster.local/ns/default/sa/web"
    assert web.process.stop() == 0


def test_what_is_kept_is_private(mesh: Mesh, reviews: Sidecar) -> None:
    kept(reviews)
    for file in reviews.state.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    assert os.stat(reviews.state).st_mode & 0o077 == 0
