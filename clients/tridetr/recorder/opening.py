"""Open the recorder's archive, or wait until its disk can be used."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time

from tridetr.config import Config
from tridetr.errors import ConfigError
from tridetr.paths import folder_on_any_disk
from tridetr.recorder.archive import Archive
from tridetr.recorder.disk_faults import remedy
from tridetr.telemetry import heartbeat, metrics

logger = logging.getLogger("tridetr.recorder")

_RETRY_S = 5.0
_BEAT_S = 1.0


def open_archive(config: Config, stop: threading.Event) -> Archive | None:
    """Open the archive; while its disk is full, read-only or failing, log that once, and retry until it can be used.

    Nothing is held open in between, so that the disk can be unmounted.

    Args:
        config: The configuration.
        stop: Ends the wait.

    Returns:
        The archive; None after ``stop``.

    Raises:
        ConfigError: ``evidence`` is not configured.
        TridetrError: The folder cannot be used.
    """
    path, section = config.evidence_dir, config.evidence
    if path is None or section is None:
        raise ConfigError(
            "the recorder has nothing to do: `evidence` is not configured. Add `evidence: {}` to save pictures and "
            "clips of visits"
        )
    known = ""
    while True:
        try:
            folder_on_any_disk(config.state_dir, "state_dir")
            return Archive(path, keep_days=section.keep_days, max_mib=section.max_mib)
        except (OSError, sqlite3.Error) as error:
            for camera in config.cameras:
                metrics.EVIDENCE_ERRORS.labels(camera, "disk").inc()
            advice = remedy(error, path)
            if advice != known:
                logger.error(
                    "pictures and clips of visits cannot be saved: %s. Remedy: %s; detection and events continue",
                    error,
                    advice,
                )
            known = advice
        retry_s = time.monotonic() + _RETRY_S
        while (left_s := retry_s - time.monotonic()) > 0:
            heartbeat.beat()
            if stop.wait(min(left_s, _BEAT_S)):
                return None
