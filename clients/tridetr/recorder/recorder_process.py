"""The recorder process: all cameras of a node."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack

from tridetr.config import Config
from tridetr.errors import ConfigError
from tridetr.recorder.archive import Archive
from tridetr.recorder.camera_recorder import CameraWatcher, Kept
from tridetr.recorder.filing import Filing
from tridetr.served_model import ServedModelReader
from tridetr.telemetry import heartbeat

logger = logging.getLogger("tridetr.recorder")

_IDLE_S = 0.1  # in standby frames come slowly
_BUSY_S = 0.01  # frames are overwritten within a fraction of a second


def run(config: Config, stop: threading.Event) -> None:
    """Keep pictures and clips until told to stop.

    Raises:
        ConfigError: ``evidence`` is not configured.
        TridetrError: Its folder cannot be used.
    """
    path, section = config.evidence_dir, config.evidence
    if path is None or section is None:
        raise ConfigError(
            "nothing is recorded: the configuration has no `evidence`. Add `evidence: {}` to keep pictures and "
            "clips of visits"
        )
    with ExitStack() as stack:
        archive = Archive(path, keep_days=section.keep_days, max_mib=section.max_mib)
        stack.callback(archive.close)
        models = ServedModelReader(config.run_dir)
        watchers = [
            stack.enter_context(CameraWatcher(config, camera, models, archive))
            for camera in config.cameras
        ]
        take_over(archive, watchers)
        filing = Filing(archive, watchers, section.after_s)
        filing.start()
        stack.callback(filing.close)
        logger.info("pictures and clips of visits are kept in %s", path)
        while not stop.wait(_BUSY_S if any(one.is_busy for one in watchers) else _IDLE_S):
            heartbeat.beat()
            filing.check()
            for watcher in watchers:
                watcher.poll()
        for watcher in watchers:
            watcher.poll()


def take_over(archive: Archive, watchers: list[CameraWatcher]) -> None:
    """Go on with visits that an earlier recorder left open; those that are over by now are ended by the watchers."""
    by_camera = {watcher.camera: watcher for watcher in watchers}
    for visit_id, (facts, value, has_clip) in archive.open_visits().items():
        watcher = by_camera.get(facts.camera)
        if watcher is None:
            archive.follow(facts)
        else:
            watcher.kept[visit_id] = Kept(facts, value, has_clip)
