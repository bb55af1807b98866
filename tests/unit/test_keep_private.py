"""No process of tridetr dumps its memory, and others cannot change the files that it creates."""

from __future__ import annotations

import os
import resource
import signal
import stat
from pathlib import Path

from tridetr.models.installed_models import replacing
from tridetr.service import keep_private


def test_a_crash_leaves_no_core_dump_and_starts_no_program(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os.chdir(tmp_path)
        keep_private()
        soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
        kept = int(Path("/proc/self/coredump_filter").read_text(), 16)
        # The kernel pipes no dump to a program with a limit of 1, but does so with 0
        if soft != min(1, hard % (1 << 64)) or kept:
            os._exit(1)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGQUIT)
        os._exit(2)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), os.waitstatus_to_exitcode(status)
    assert os.WTERMSIG(status) == signal.SIGQUIT
    assert not os.WCOREDUMP(status)
    assert not list(tmp_path.iterdir())


def test_others_cannot_change_an_installed_model_whatever_the_umask(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os.umask(0)
        keep_private()
        with replacing(tmp_path / "models" / "yard.onnx") as path:
            path.write_bytes(b"onnx")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert stat.S_IMODE((tmp_path / "models").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "models" / "yard.onnx").stat().st_mode) == 0o644
