"""Log output: a reader of stderr that stops reading, or is gone, never blocks a process."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

START = """
import logging, os, sys, time
from tridetr.telemetry.logs import configure_logging
from tridetr.telemetry.stderr import never_block_on_stderr
never_block_on_stderr()
configure_logging("info", "text", "part")
log = logging.getLogger("tridetr.test")
"""
MANY = 12_000


@contextmanager
def started(code: str, stderr: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    os.close(stderr)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def short_pipe() -> tuple[int, int]:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    return read, write


def everything(descriptor: int) -> str:
    text = b""
    while True:
        try:
            read = os.read(descriptor, 1 << 16)
        except OSError:  # of a terminal without a process
            read = b""
        if not read:
            os.close(descriptor)
            return text.decode()
        text += read


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_a_reader_that_stops_blocks_nothing_and_learns_what_it_missed(kind: str) -> None:
    code = f"""{START}
for number in range({MANY}):
    log.info("line %d %s", number, "x" * 100)
print("went on", flush=True)
input()
log.info("the last line")
"""
    read, write = short_pipe() if kind == "pipe" else pty.openpty()
    with started(code, write) as process:
        assert answer(process) == "went on"
        text = ""
        while "dropped" not in text:
            text += os.read(read, 1 << 16).decode()
        go_on(process)
        text += everything(read)
        assert process.wait(10) == 0
    numbers = [int(number) for number in re.findall(r"INFO +part: line (\d+)", text)]
    assert numbers == list(range(len(numbers))), "in order, without a gap before the first drop"
    (dropped,) = re.findall(r"WARNING part: (\d+) lines of the log were dropped", text)
    assert len(numbers) + int(dropped) == MANY
    assert text.rstrip().endswith("part: the last line")


def test_everything_is_written_at_the_end_and_before_a_traceback() -> None:
    code = f"""{START}
for number in range(2000):
    log.info("line %d", number)
print("printed", file=sys.stderr)
raise RuntimeError("the reason")
"""
    read, write = os.pipe()
    with started(code, write) as process:
        lines = everything(read).splitlines()
        assert process.wait(10) == 1
    assert [line.split()[-1] for line in lines[:2000]] == [str(n) for n in range(2000)]
    assert lines[2000] == "printed"
    assert lines[-1] == "RuntimeError: the reason"


def test_the_end_waits_a_bounded_time_for_a_reader_that_stopped() -> None:
    read, write = short_pipe()
    with started(f"{START}\nlog.info('x' * 20_000)\nprint('ending', flush=True)", write) as process:
        assert answer(process) == "ending"
        assert process.wait(20) == 0
    os.close(read)


@pytest.mark.parametrize("kind", ["pipe", "terminal", "full"])
def test_a_log_that_cannot_be_written_ends_nothing(kind: str) -> None:
    code = f"""{START}
input()
for number in range(3):
    log.info("line %d", number)
    time.sleep(0.01)
print("gone on", os.times().user < 5, flush=True)
"""
    if kind == "full":
        write, read = os.open("/dev/full", os.O_WRONLY), os.open(os.devnull, os.O_RDONLY)
    else:
        read, write = os.pipe() if kind == "pipe" else pty.openpty()
    with started(code, write) as process:
        os.close(read)
        go_on(process)
        assert answer(process) == "gone on True"
        assert process.wait(10) == 0


def test_a_stopped_reader_of_the_supervisor_blocks_neither_it_nor_its_processes() -> None:
    """The supervisor used to hang in its first log line, and did not restart what had died."""
    code = f"""{START}
from pathlib import Path
import tempfile
from tridetr.supervisor.process import ManagedProcess
from tridetr.supervisor.process_list import ProcessSpec
from tridetr.telemetry.stderr import OutputReaders
child = "import os, sys; os.write(2, b'x' * 300_000); print('y' * 300_000); raise SystemExit(3)"
with tempfile.TemporaryDirectory() as folder:
    spec = ProcessSpec("part", (sys.executable, "-c", child), 0, beats=False)
    part = ManagedProcess(spec, Path(folder), OutputReaders().attach, lambda _: None)
    while part.restarts < 2:
        part.tick(time.monotonic())
        time.sleep(0.01)
    part.stop()
    part.wait(time.monotonic() + 5)
print("restarted", flush=True)
"""
    read, write = short_pipe()
    with started(code, write) as process:
        began_s = time.monotonic()
        assert answer(process) == "restarted"
        assert time.monotonic() - began_s < 30
    os.close(read)
