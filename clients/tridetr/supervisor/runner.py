"""Run a node: the main loop of ``tridetr up``."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console

from tridetr.broker import EMBEDDED, choose_port
from tridetr.config import Config
from tridetr.config.secrets import refuse_password_without_user
from tridetr.doctor.configuration import real_cameras_of_the_toy_model
from tridetr.gateway.listener import INHERITED, listen
from tridetr.machine import find_machine
from tridetr.paths import private_folder
from tridetr.plan import plan
from tridetr.ports import viewer_url
from tridetr.service import explaining_unwritable_disks, stop_signals
from tridetr.supervisor import broker_pulse
from tridetr.supervisor.counters import Counters
from tridetr.supervisor.disk_checks import check_disks
from tridetr.supervisor.process import ManagedProcess
from tridetr.supervisor.process_list import ProcessSpec, plan_processes
from tridetr.supervisor.progress import PipelineWatch
from tridetr.supervisor.pulse import SupervisorPulse
from tridetr.supervisor.run_folder import RunFolder
from tridetr.supervisor.screen import Display, LogPipe, Screen
from tridetr.supervisor.summary import summarise
from tridetr.supervisor.timings import TimingsSampler
from tridetr.telemetry.logs import TextFormatter, configure_logging
from tridetr.telemetry.stderr import OutputReaders, never_block_on_stderr

logger = logging.getLogger("tridetr.supervisor")

TICK_S = 0.1
STATUS_S = 1.0
LOOK_S = 1.0
STOP_S = 5.0  # for each stage
DRAIN_S = 10.0  # for the last events once all files have ended
_GATEWAY = "gateway"


class Supervisor:
    """Keeps the processes of one node running until it is stopped."""

    def __init__(
        self,
        config: Config,
        *,
        only: Sequence[str] = (),
        without: Sequence[str] = (),
        make_display: Callable[[LogPipe], Display] | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            config: The validated configuration.
            only: Names of the processes to run (one container of a pod); empty = the whole node. Segments and
                queues are only removed at the end of a whole node.
            without: Names of processes of a whole node that are not run, such as the gateway.
            make_display: Returns the display of the run, given the queue of log lines; None = log to stderr.
        """
        self._config = config
        self._whole_node = not only
        self._only = only
        self._without = without
        self._make_display = make_display
        self._logs = LogPipe()
        self._stop = threading.Event()
        self._samplers = {name: TimingsSampler(config.instance, name) for name in config.cameras}

    @property
    def was_stopped(self) -> bool:
        """Whether a signal ended the run."""
        return self._stop.is_set()

    def run(self, duration_s: float | None) -> dict[str, Any]:
        """Run the node and return the summary (see :func:`summarise`).

        Ends on a stop signal such as SIGINT or SIGTERM, after ``duration_s``, or when all files have ended.

        Raises:
            TridetrError: A folder or port cannot be used, or another run uses the same instance or run folder.
        """
        for number in stop_signals():
            signal.signal(number, lambda *_: self._stop.set())
        run_dir = private_folder(self._config.run_dir)
        if self._runs("controller"):
            refuse_password_without_user(self._config)
        with RunFolder(self._config, self._only) as folder, contextlib.ExitStack() as viewer:
            folder.prepare()
            check_disks(self._config, self._only)
            listener = self._listen()
            if listener is not None:
                viewer.enter_context(listener)
            gpu = self._whole_node and needs_gpu_process(self._config)
            output = OutputReaders(self._logs.add if self._make_display else None)
            processes = [
                self._manage(spec, folder, output, listener)
                for spec in plan_processes(self._config, folder.config_file, self._only, gpu=gpu)
                if spec.name not in self._without
            ]
            for process in processes:
                # Creates the counter, so that the first restart is an increase
                self._count_restart(process.spec.name, 0)
            broker = broker_pulse.BrokerPulse(self._config)
            if any(process.spec.name == broker_pulse.NAME for process in processes):
                broker.start()
            pulse = SupervisorPulse(run_dir, self._only)
            started_s = time.monotonic()
            watch = PipelineWatch(
                self._config, {process.spec.name: process for process in processes}
            )
            try:
                self._loop(folder, processes, pulse, watch, started_s + (duration_s or math.inf))
            finally:
                elapsed_s = time.monotonic() - started_s
                pulse.stopping()
                viewer.close()  # a browser that reconnects is refused at once
                broker.stop()
                watch.close()
                self._stop_all(processes)
                output.finish()
                counters = Counters.read(run_dir / "metrics")
                for sampler in self._samplers.values():
                    sampler.poll()
                    sampler.close()
                if self._whole_node:
                    folder.clean()
            return summarise(
                list(self._config.cameras),
                counters,
                self._timings(),
                {process.spec.name: process.restarts for process in processes},
                elapsed_s,
            )

    def _manage(
        self,
        spec: ProcessSpec,
        folder: RunFolder,
        output: OutputReaders,
        listener: socket.socket | None,
    ) -> ManagedProcess:
        inherits, environment = [folder.config_fd], {}
        if spec.name == broker_pulse.NAME:
            inherits = []
        elif spec.name == _GATEWAY and listener is not None:
            inherits.append(listener.fileno())
            environment[INHERITED] = str(listener.fileno())
        return ManagedProcess(
            spec,
            self._config.run_dir,
            output.attach,
            self._count_restart,
            folder.recreate,
            inherits,
            environment,
        )

    def _listen(self) -> socket.socket | None:
        """Open the viewer's socket, if the gateway is among the processes, and check the embedded broker's port.

        Raises:
            TridetrError: The port of the viewer or of the embedded broker is in use or not permitted.
        """
        config = self._config
        if config.mqtt.host == EMBEDDED and self._runs(broker_pulse.NAME):
            choose_port(config.run_dir, config.mqtt.port)
        return listen(config.gateway.host, config.gateway.port) if self._runs(_GATEWAY) else None

    def _runs(self, name: str) -> bool:
        return name in self._only if self._only else name not in self._without

    def _count_restart(self, name: str, times: int = 1) -> None:
        from tridetr.telemetry.metrics import PROCESS_RESTARTS

        PROCESS_RESTARTS.labels(name).inc(times)

    def _timings(self) -> dict[str, Any]:
        return {name: sampler.timings for name, sampler in self._samplers.items()}

    def _loop(
        self,
        folder: RunFolder,
        processes: list[ManagedProcess],
        pulse: SupervisorPulse,
        watch: PipelineWatch,
        end_s: float,
    ) -> None:
        next_status_s = time.monotonic() + STATUS_S
        next_look_s = 0.0
        display: Display | None = None
        with contextlib.ExitStack() as stack:
            if self._make_display is not None:
                stack.enter_context(_records_to(self._logs))
                display = stack.enter_context(self._make_display(self._logs))
            while not self._stop.is_set():
                now_s = time.monotonic()
                pulse.beat()
                if now_s >= next_look_s:
                    next_look_s = now_s + LOOK_S
                    folder.keep()
                    watch.look(now_s)
                    for sampler in self._samplers.values():
                        sampler.look_again()
                if now_s >= end_s:
                    break
                for process in processes:
                    process.tick(now_s)
                for sampler in self._samplers.values():
                    sampler.poll()
                if display is not None and now_s >= next_status_s:
                    next_status_s = now_s + STATUS_S
                    display.update(Counters.read(self._config.run_dir / "metrics"), self._timings())
                if _all_sources_ended(processes):
                    self._drain()
                    break
                self._stop.wait(TICK_S)

    def _drain(self) -> None:
        """Wait until the last results are decided on and the last events confirmed, ``DRAIN_S`` at most."""
        metrics = self._config.run_dir / "metrics"
        deadline_s = time.monotonic() + DRAIN_S
        quiet_since_s, seen = time.monotonic(), -1
        while time.monotonic() < deadline_s and not self._stop.is_set():
            for sampler in self._samplers.values():
                sampler.poll()
            counters = Counters.read(metrics)
            inferred = counters.count("tridetr_frames_inferred_total")
            waiting = self._runs(broker_pulse.NAME) and counters.count("tridetr_outbox_depth") > 0
            if inferred != seen or waiting:
                seen, quiet_since_s = inferred, time.monotonic()
            if time.monotonic() - quiet_since_s > 1.0:
                return
            self._stop.wait(TICK_S)

    def _stop_all(self, processes: list[ManagedProcess]) -> None:
        for stage in sorted({process.spec.stop_stage for process in processes}):
            members = [process for process in processes if process.spec.stop_stage == stage]
            for process in members:
                process.stop()
            deadline_s = time.monotonic() + STOP_S
            for process in members:
                process.wait(deadline_s)


@contextlib.contextmanager
def _records_to(logs: LogPipe) -> Iterator[None]:
    """Send this process's own log records to the display, too."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    root.handlers[:] = [logs.handler(TextFormatter("up"))]
    try:
        yield
    finally:
        root.handlers[:] = handlers


def _all_sources_ended(processes: list[ManagedProcess]) -> bool:
    captures = [process for process in processes if process.spec.name.startswith("capture ")]
    return bool(captures) and all(process.finished for process in captures)


def up(config: Config, *, duration_s: float | None, as_json: bool, only: Sequence[str] = ()) -> int:
    """Run a node until it ends.

    Args:
        config: The validated configuration.
        duration_s: Stop after this time [s]; None = run until stopped.
        as_json: Print the summary as JSON to stdout, and no table.
        only: Names of the processes to run; empty = the whole node.

    Returns:
        The exit status: 0, or 1 if no frame was processed end to end.
    """
    never_block_on_stderr()
    configure_logging(config.log.level, config.log.format, "up")
    if real := real_cameras_of_the_toy_model(config):
        logger.warning(
            "the bundled demonstration model does not recognise people in %s: download a model with "
            "`tridetr models pull` and set model.file",
            ", ".join(real),
        )

    def make_screen(logs: LogPipe) -> Screen:
        viewer = viewer_url(config.gateway.host, config.gateway.port)
        hint = f"viewer: {viewer}   Ctrl-C stops"
        return Screen(Console(stderr=True), list(config.cameras), logs, hint)

    make_display = make_screen if sys.stderr.isatty() and not as_json else None
    with explaining_unwritable_disks(config):
        summary = Supervisor(config, only=only, make_display=make_display).run(duration_s)
    if as_json:
        json.dump(summary, sys.stdout, indent=2)
        sys.stdout.write("\n")
    inferred = sum(camera["frames_inferred"] for camera in summary["cameras"].values())
    if not only and not inferred:
        logger.error("no frame was processed end to end; run `tridetr doctor` to find the cause")
        return 1
    return 0


def needs_gpu_process(config: Config) -> bool:
    """Return whether the node needs the gpu process; log why frames are not placed on an existing GPU.

    Raises:
        CudaError: The configuration requests a GPU, but this machine has none that can be used.
        ModelError: The configured model cannot run on this machine.
    """
    found = plan(config, find_machine(config))
    if found.frames.why_not and config.device != "cpu":
        level = logging.WARNING if found.frames.is_loss else logging.INFO
        logger.log(level, "frames go through system shared memory: %s", found.frames.why_not)
    return found.needs_gpu_process
