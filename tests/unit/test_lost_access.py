"""Files of this user whose mode was changed by mistake (`chmod 000`): used again, not a crash loop."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tridetr.files import give_tree_back

_DAC = "-dac_override,-dac_read_search"  # with these, modes mean nothing to root
_USE = """
import os, sys
from pathlib import Path
from tridetr.controller.database import Database
from tridetr.files import give_tree_back
from tridetr.file_lock import FileLock
from tridetr.paths import private_folder
from tridetr.shm.boards import CameraState, CameraStatus, StatusReader, StatusWriter
from tridetr.shm.names import RingName, writer_of
from tridetr.telemetry import heartbeat

folder, instance = Path(sys.argv[1]), sys.argv[2]
lock, database = folder / "controller.lock", folder / "controller.db"
ring = RingName(instance, "cam", "status").path(1)

def use():
    private_folder(folder, "state_dir")
    FileLock(lock).close()
    Database(database).close()
    with StatusWriter(instance, "cam") as writer:
        writer.write(CameraStatus(CameraState.LIVE, 1, 1))
        ring.chmod(0 if ring.stat().st_mode & 0o777 else 0o600)
        assert writer_of(ring) == os.getpid()
        with StatusReader(instance, "cam") as reader:
            assert reader.read() is not None
    assert ring.stat().st_mode & 0o777 == 0o600

use()
heartbeat.beat_for(folder, "part")
beat = folder / "heartbeats" / "part"
assert beat.exists()
for path in (lock, database, ring, beat, folder):
    path.chmod(0)
use()
assert heartbeat.read(folder, "part")
heartbeat.beat_for(folder, "part")
meant = folder / "read-only"
meant.touch(0o400)
for path in (beat, beat.parent, folder):
    path.chmod(0)
give_tree_back(folder)
assert beat.read_bytes()
assert meant.stat().st_mode & 0o777 == 0o400

heartbeat.start(folder, "self")
folder.chmod(0)
heartbeat._look_ns = 0  # it is time to look after the file
heartbeat.beat()
give_tree_back(folder)
assert folder.stat().st_mode & 0o777 == 0o700
assert {path.stat().st_mode & 0o777 for path in (lock, database)} == {0o600}
"""


def test_own_files_without_any_permission_are_used_again(instance: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", _USE, str(tmp_path / "state"), instance]
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv") or pytest.skip("needs setpriv (util-linux)")
        words = [setpriv, f"--bounding-set={_DAC}", f"--inh-caps={_DAC}", *words]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_links_in_the_run_folder_are_not_followed(tmp_path: Path) -> None:
    """The supervisor blocked while the network share with the model, which the run folder links to, did not answer."""
    share = tmp_path / "share"
    share.mkdir(mode=0)
    run = tmp_path / "run"
    links = [run / "models" / name for name in ("folder", "file")]
    links[0].parent.mkdir(parents=True)
    for link in links:
        link.symlink_to(share)

    def followed() -> list[bool]:
        return [link.lstat().st_atime_ns != 0 for link in links]

    def forget() -> None:
        for link in links:
            os.utime(link, ns=(0, 0), follow_symlinks=False)

    forget()
    for link in links:
        link.stat()
    if not all(followed()):
        pytest.skip("this file system does not record when a link is followed")
    forget()
    give_tree_back(run)
    assert not any(followed())
    assert share.stat().st_mode & 0o777 == 0
