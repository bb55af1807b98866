"""Run one supervised process: start it, watch its exit and heartbeat, restart it, stop it with its children."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from tridetr.backoff import Backoff
from tridetr.config.secrets import environment_of
from tridetr.errors import TridetrError
from tridetr.service import SUPERVISED
from tridetr.supervisor import orphans
from tridetr.supervisor.process_list import ProcessSpec
from tridetr.supervisor.pulse import NOTIFY
from tridetr.telemetry import heartbeat
from tridetr.telemetry.logs import Limiter
from tridetr.write_check import check_writable

logger = logging.getLogger("tridetr.supervisor")

HANG_S = 10.0  # a main loop beats every second; this long without a beat is a hang
AWAY_S = 5.0  # if the supervisor did not run for longer, it was stopped itself, or the machine was
_KILL_S = 2.0  # to exit after SIGKILL
START_S = 60.0  # time to reach the main loop on a slow machine: imports, opening devices and models


class ManagedProcess:
    """A process that is started again whenever it dies or hangs."""

    def __init__(
        self,
        spec: ProcessSpec,
        run_dir: Path,
        on_output: Callable[[IO[bytes]], object],
        on_restart: Callable[[str], None],
        before_start: Callable[[], object] = lambda: None,
        inherits: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare without starting; the first :meth:`tick` starts it.

        Args:
            spec: The process to start.
            run_dir: Run folder, which contains the heartbeats.
            on_output: Called with the process's output (stdout and stderr), which it must read until it ends.
            on_restart: Called with the name at every restart.
            before_start: Called before every start, to create the folders that the process needs.
            inherits: Descriptors that the process inherits.
            environment: Variables of the process, in addition to the supervisor's.
        """
        self.spec = spec
        self.restarts = 0
        self.finished = False
        self._run_dir = run_dir
        self._marked_dir = run_dir.resolve()
        self._on_output = on_output
        self._on_restart = on_restart
        self._before_start = before_start
        self._inherits = inherits
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._launched_s = 0.0  # the same, just before the process existed
        self._killed = False
        self._beat_s: float | None = None  # time of the last known heartbeat
        self._start_at_s: float | None = (
            time.monotonic() + spec.delay_s if spec.delay_s else 0.0  # 0: at the first tick
        )
        self._ticked_s = 0.0
        self._watched_since_s = 0.0
        self._lines = Limiter(60.0)
        # A single crash costs a tenth of a second; a crash loop does not spin
        self._backoff = Backoff(first_s=0.1, longest_s=5.0, steady_s=20.0)

    @property
    def pid(self) -> int | None:
        """Process id; None while it is not running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def tick(self, now_s: float) -> None:
        """Start, restart or kill the process as needed; call it a few times a second.

        Args:
            now_s: Monotonic time [s].
        """
        if self.finished:
            return
        if now_s - self._ticked_s > AWAY_S:
            # Heartbeats that this process relays (the broker's), or that stopped with the machine, are old without a
            # fault of the processes
            self._watched_since_s = now_s
        self._ticked_s = now_s
        if self._process is None:
            if self._start_at_s is not None and now_s >= self._start_at_s:
                self._start(now_s)
            return
        code = self._process.poll()
        if code is not None:
            self._on_exit(code, now_s)
        elif self.spec.beats and not self._killed and self._hangs(now_s):
            logger.warning("%s shows no progress; killing it", self.spec.name)
            self._killed = True  # it dies only when the disk answers that it may be waiting for
            self._process.kill()

    def up_s(self, now_s: float) -> float:
        """Return how long the process has been running and watched [s]; 0 while it is down or starting."""
        try:
            pulse = self._pulse()
        except OSError:
            return 0.0
        # A full or read-only disk refuses the heartbeat: then the time since the start shows it
        is_starting = now_s - self._started_s <= START_S if pulse is None else pulse.starting
        if self.pid is None or is_starting:
            return 0.0
        return now_s - max(self._started_s, self._watched_since_s)

    def replace(self, why: str) -> None:
        """Kill the process, so that a later :meth:`tick` starts it again; ``why`` is logged."""
        if self._process is not None:
            logger.warning("%s: restarting %s", why, self.spec.name)
            self._process.kill()

    def stop(self) -> None:
        """Send SIGTERM, and do not restart it."""
        self.finished = True
        if self._process is not None:
            self._process.terminate()

    def wait(self, deadline_s: float) -> None:
        """Wait until it has exited; kill it and its children at the deadline (monotonic seconds)."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.warning("%s did not stop in time; killing it", self.spec.name)
        self._process.kill()
        try:
            self._process.wait(_KILL_S)
        except subprocess.TimeoutExpired:
            # The kernel ends it only then
            logger.warning(
                "%s was killed, but waits for a disk that does not answer", self.spec.name
            )
        with contextlib.suppress(OSError):
            orphans.kill_children(self._marked_dir, self.spec.name)

    def _start(self, now_s: float) -> None:
        # If the disk refuses it, files of an earlier start exist, and `_pulse` ignores the old heartbeat
        with contextlib.suppress(OSError):
            heartbeat.forget(self._run_dir, self.spec.name)
        try:
            self._before_start()
        except (OSError, TridetrError) as error:
            logger.warning("%s: %s", self.spec.name, error)
        try:
            self._process = self._launch()
        except OSError as error:  # such as no memory or process id left: the others go on
            delay_s = self._backoff.failed(0.0)
            logger.warning(
                "cannot start %s (%s); trying again in %.1f s", self.spec.name, error, delay_s
            )
            self._start_at_s = now_s + delay_s
            return
        self._started_s = now_s
        self._beat_s = None
        self._killed = False

    def _launch(self) -> subprocess.Popen[bytes]:
        # In a new session: Ctrl-C only reaches the supervisor, which stops the processes in order. Output goes through
        # the supervisor, which always reads it: on a terminal that is paused, a process would hang
        self._launched_s = time.monotonic()
        process = subprocess.Popen(
            self.spec.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=self._inherits,
            env={
                **{k: v for k, v in environment_of(self.spec.name).items() if k != NOTIFY},
                SUPERVISED: str(os.getpid()),
                orphans.MARK: orphans.mark(self._marked_dir, self.spec.name),
                **self._environment,
            },
        )
        assert process.stdout is not None
        try:
            self._on_output(process.stdout)
        except RuntimeError as error:  # no thread left
            process.kill()
            process.wait()
            process.stdout.close()
            raise OSError(str(error)) from None
        return process

    def _on_exit(self, code: int, now_s: float) -> None:
        try:
            orphans.kill_children(self._marked_dir, self.spec.name)
        except OSError as error:  # such as no descriptor left; it could not be started either
            if self._lines.allow(now_s) is not None:
                logger.warning("%s has exited, but cannot be restarted: %s", self.spec.name, error)
            return  # the next tick tries again
        self._process = None
        if code == 0 and self.spec.may_finish:
            self.finished = True
            logger.info("%s has finished", self.spec.name)
            return
        delay_s = self._backoff.failed(now_s - self._started_s)
        reason = (
            f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with status {code}"
        )
        logger.warning("%s %s; restarting it in %.1f s", self.spec.name, reason, delay_s)
        self._start_at_s = now_s + delay_s
        self.restarts += 1
        self._on_restart(self.spec.name)

    def _pulse(self) -> heartbeat.Pulse | None:
        """Return the heartbeat of this start of the process; None if there is none, or only an earlier one's.

        Raises:
            OSError: It cannot be read.
        """
        pulse = heartbeat.read(self._run_dir, self.spec.name)
        if pulse is not None and time.monotonic() - pulse.age_s < self._launched_s:
            return None
        return pulse

    def _hangs(self, now_s: float) -> bool:
        watched_s = now_s - self._watched_since_s
        try:
            pulse = self._pulse()
        except OSError as error:  # such as no descriptor left; the process may be running
            if self._lines.allow(now_s) is not None:
                logger.warning("cannot read the heartbeat of %s: %s", self.spec.name, error)
            self._watched_since_s = now_s
            return False
        if pulse is not None and not pulse.starting:
            self._beat_s = now_s - pulse.age_s
        if self._beat_s is None:
            is_late = min(watched_s, now_s - self._started_s) > START_S
        else:  # if the file was removed, the process recreates it
            is_late = min(watched_s, now_s - self._beat_s) > HANG_S
        if is_late and pulse is None and not self._can_beat(now_s):
            self._watched_since_s = now_s
            return False
        return is_late

    def _can_beat(self, now_s: float) -> bool:
        """Return whether heartbeats can be written at the moment."""
        try:
            check_writable(self._run_dir)
        except OSError as error:
            if self._lines.allow(now_s) is not None:
                logger.debug("%s is not watched: %s", self.spec.name, error)
            return False
        return True


def _signal_name(number: int) -> str:
    """Return a signal's name; most real-time signals have none in Python."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
