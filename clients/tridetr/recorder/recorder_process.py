"""The recorder process: saves pictures and clips of visits for all cameras of a node."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack

from tridetr.config import Config
from tridetr.recorder.archive import Archive
from tridetr.recorder.camera_recorder import CameraWatcher
from tridetr.recorder.filing import Filing
from tridetr.recorder.opening import open_archive
from tridetr.served_model import ServedModelReader
from tridetr.telemetry import heartbeat

logger = logging.getLogger("tridetr.recorder")

_IDLE_S = 0.1  # polling interval in standby, in which the frame rate is low
_BUSY_S = 0.01  # polling interval during a visit: frames are soon overwritten


def run(config: Config, stop: threading.Event) -> None:
    """Save pictures and clips of visits until ``stop`` is set.

    Raises:
        ConfigError: ``evidence`` is not configured.
        TridetrError: The evidence folder cannot be used.
    """
    archive = open_archive(config, stop)
    if archive is None:
        return
    assert config.evidence is not None
    with ExitStack() as stack:
        stack.callback(archive.close)
        models = ServedModelReader(config.run_dir)
        watchers = [
            stack.enter_context(CameraWatcher(config, camera, models, archive))
            for camera in config.cameras
        ]
        take_over(archive, watchers)
        filing = Filing(archive, watchers, config.evidence.after_s)
        filing.start()
        stack.callback(filing.close)
        logger.info("saving pictures and clips of visits to %s", archive.files.parent)
        while not stop.wait(_BUSY_S if any(one.is_busy for one in watchers) else _IDLE_S):
            heartbeat.beat()
            filing.check()
            for watcher in watchers:
                watcher.poll()
        for watcher in watchers:
            watcher.poll()


def take_over(archive: Archive, watchers: list[CameraWatcher]) -> None:
    """Resume visits that an earlier recorder left open; the watchers end those that are over by now."""
    by_camera = {watcher.camera: watcher for watcher in watchers}
    for visit_id, kept in archive.open_visits().items():
        watcher = by_camera.get(kept.facts.camera)
        if watcher is None:
            archive.follow(kept.facts)
        else:
            watcher.kept[visit_id] = kept
