"""Keep one server running: restart it when it dies, when its backend dies, or when inference stops working."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path

import grpc

from tridetr.backoff import Backoff
from tridetr.config import Config
from tridetr.errors import TridetrError, TritonError
from tridetr.telemetry import heartbeat, metrics
from tridetr.telemetry.heartbeat import beating
from tridetr.triton import launch
from tridetr.triton.answers import parse_prediction
from tridetr.triton.endpoint import (
    FILE_NAME,
    Endpoint,
    read_endpoint,
    remove_endpoint,
    write_endpoint,
)
from tridetr.triton.health import Health
from tridetr.triton.server_probe import Probe
from tridetr.triton.server_process import ServerProcess
from tridetr.triton.setup import Setup
from tridetr.triton.start import StartProgress

log = logging.getLogger("tridetr.triton")

# Enough for the requests in flight; the server's own shutdown would take two more seconds without benefit.
STOP_GRACE_S = 1.0
_LOOK_EVERY_S = 0.5
_TURN_S = 0.1
_PATIENCE = 6  # timeouts in a row until a server that computes counts as hung
_COMPUTES_S = 0.1  # CPU time within one timeout from which on it computes; a hung backend uses none
_REASONS = ("start_timeout", "start_failed", "model_replaced", "stub_unhealthy",
            "failing", "hung", "died", "stub_died", "file_lost")  # fmt: skip


class _Stopped(Exception):  # noqa: N818
    pass


class _Unhealthy(Exception):  # noqa: N818
    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Watcher:
    """Runs one server at a time until stopped."""

    def __init__(
        self,
        config: Config,
        files: launch.Layout,
        secret: tuple[Path, str],
        stop: threading.Event,
    ) -> None:
        """Find the server and place the model (see `Setup`); nothing is started yet. Setting `stop` ends `run`."""
        self._config = config
        self._stop = stop
        self._setup = Setup(config, files, secret)
        self._was_ready = False
        self._healthy = metrics.SERVER_HEALTHY.labels(config.model.name)
        self._healthy.set(0)
        for reason in _REASONS:  # start at 0, so that `increase()` sees the first restart
            metrics.SERVER_RESTARTS.labels(reason=reason)

    def run(self) -> None:
        """Block until `stop` is set.

        Raises:
            TritonError: the very first start fails.
            ModelError: the model file is missing or does not conform to the contract.
        """
        backoff = Backoff(first_s=0.1, longest_s=10.0, steady_s=30.0)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._run_once()
            except _Stopped:
                break
            except _Unhealthy as fault:
                if not self._was_ready:
                    raise TritonError(
                        f"Triton does not start: {fault}{self._setup.way_out}"
                    ) from None
                metrics.SERVER_RESTARTS.labels(reason=fault.reason).inc()
                delay = backoff.failed(time.monotonic() - began)
                log.warning(
                    "Triton %s; restarting in %.1f s", fault, delay, extra={"reason": fault.reason}
                )
                heartbeat.beat()
                self._stop.wait(delay)

    def _run_once(self) -> None:
        config = self._config
        remove_endpoint(config.run_dir)  # left by a watcher that was killed
        beating(self._setup.lay_out)
        process, endpoint = self._setup.start()
        probe = Probe(endpoint, config.model.name)
        grace = 0.0
        try:
            self._await_ready(process, probe)
            write_endpoint(config.run_dir, endpoint)
            self._watch(process, probe, endpoint)
        except _Stopped:
            grace = STOP_GRACE_S
            raise
        finally:
            self._healthy.set(0)
            remove_endpoint(config.run_dir)
            probe.close()
            beating(lambda: process.stop(grace))
            self._setup.replacement.close()
            self._setup.clean()

    def _await_ready(self, process: ServerProcess, probe: Probe) -> None:
        began = time.monotonic()
        progress = StartProgress(process.sample(), began, self._setup.start_timeout_s)
        while not probe.ready():
            self._check_alive(process)
            if why := progress.too_long(process.sample, time.monotonic()):
                raise _Unhealthy("start_timeout", f"{why}: {process.last_words}")
            self._wait(_TURN_S)
        self._setup.keep_private()
        self._setup.report(process)
        try:
            info = probe.model()
        except grpc.RpcError as error:
            raise _Unhealthy("start_failed", f"cannot describe its model: {error}") from None
        process.remember_stubs()
        self._infer(process, probe)
        self._setup.served()
        self._was_ready = True
        self._healthy.set(1)
        log.info(
            "Triton serves %s %s: %s, %s, %s",
            info.name, info.version, info.engine, info.provider, info.precision,
            extra={"pid": process.pid, "start_s": round(time.monotonic() - began, 1)},
        )  # fmt: skip

    def _watch(self, process: ServerProcess, probe: Probe, endpoint: Endpoint) -> None:
        health = Health(time.monotonic())
        while True:
            self._wait(_LOOK_EVERY_S)
            self._check_alive(process)
            self._check_files(endpoint)
            if self._setup.replacement.is_due():
                raise _Unhealthy("model_replaced", "has a new model file")
            try:
                successes, failures = probe.counters()
                needs_probe = health.needs_probe(successes, failures, time.monotonic())
            except grpc.RpcError:
                needs_probe = True
            if needs_probe:
                self._infer(process, probe)
                health.probed(time.monotonic())

    def _check_files(self, endpoint: Endpoint) -> None:
        """Make sure that new clients can reach the server: existing connections work even without the files."""
        lost = self._setup.lost_file()
        if lost is not None:
            raise _Unhealthy("file_lost", f"can no longer be reached: {lost} was removed")
        if read_endpoint(self._config.run_dir) is None:
            log.warning("%s was removed by another program; writing it again", FILE_NAME)
            with contextlib.suppress(OSError):  # perhaps a full disk: tried again in the next round
                write_endpoint(self._config.run_dir, endpoint)

    def _infer(self, process: ServerProcess, probe: Probe) -> None:
        """Run one inference of our own.

        A late answer does not count as a hang while the backend uses CPU time: on an overloaded machine, restarting the
        server would only add load.

        Raises:
            _Unhealthy: the inference failed, or its answer is late while the backend is idle, or after `_PATIENCE`
                timeouts.
        """
        timeout_s = self._config.triton.infer_timeout_s
        for attempt in range(1, _PATIENCE + 1):
            computed_s = process.backend_cpu_s()
            try:
                self._infer_once(process, probe, timeout_s)
                return
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    # "not healthy": the backend was stopped, or has just died
                    unhealthy = "not healthy" in (error.details() or "")
                    reason = "stub_unhealthy" if unhealthy else "failing"
                    raise _Unhealthy(reason, f"fails to infer: {error.details()}") from None
            except TridetrError as error:
                raise _Unhealthy("failing", f"returns invalid answers: {error}") from None
            computes = process.backend_cpu_s() - computed_s >= _COMPUTES_S
            if not computes or attempt == _PATIENCE:
                raise _Unhealthy("hung", f"did not answer within {attempt * timeout_s:g} s")
            log.warning(
                "Triton did not answer within %g s, but is still computing: the machine is overloaded",
                timeout_s,
            )

    def _infer_once(self, process: ServerProcess, probe: Probe, timeout_s: float) -> None:
        future = probe.start_inference(timeout_s)
        try:
            while not future.done():
                self._wait(0.02)
                self._check_alive(process)
            parse_prediction(future.result())
        finally:
            future.cancel()

    def _check_alive(self, process: ServerProcess) -> None:
        code = process.exit_code
        if code is not None:
            raise _Unhealthy("died", f"exited with code {code}: {process.last_words}")
        if process.lost_stub():
            raise _Unhealthy("stub_died", "lost the process of its Python backend")

    def _wait(self, seconds: float) -> None:
        heartbeat.beat()
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._stop.wait(min(left, 1.0)):
                raise _Stopped
            heartbeat.beat()
        if self._stop.is_set():
            raise _Stopped
