"""The second stream of a camera (`cameras.x.view`), for viewers: open only while it is watched, and never decoded."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from tridetr.capture.packets import PacketSink
from tridetr.capture.reconnect import ReconnectDelays
from tridetr.capture.sources.connect import connect
from tridetr.capture.sources.playlist import PlayedSegments
from tridetr.capture.sources.pump import Feed, as_source_error
from tridetr.config import CameraSection, PacketsSection
from tridetr.errors import SourceError
from tridetr.hang_up import HangUp
from tridetr.shm import names
from tridetr.shm.closing import Closing

_log = logging.getLogger("tridetr.capture")

_LOOK_S = 0.25  # how often to check whether the stream is watched
_LINGER_S = 5.0  # after the last viewer leaves, since pages reload and players reconnect
_CODECS = ("h264", "hevc")


class ViewStream(Closing):
    """Thread that publishes a camera's second stream in the ring `view` while a reader wants it; a context manager."""

    def __init__(
        self,
        instance: str,
        camera: str,
        section: CameraSection,
        packets: PacketsSection,
        report: Callable[[str], None],
    ) -> None:
        """Start the thread.

        Args:
            instance: Instance of tridetr.
            camera: Name of the camera.
            section: Its configuration, with `view`.
            packets: How much of the stream to keep.
            report: Called with the reason if the stream is unavailable; with "" if it is available or not wanted.
        """
        assert section.view is not None
        self._section = section.model_copy(update={"source": section.view})
        self._sink = PacketSink(instance, camera, packets, names.VIEW)
        self._report = report
        self._stop = HangUp()
        self._played = PlayedSegments()
        self._wanted_s = self._looked_s = 0.0
        self._began_s: float | None = None  # first packet of the connection
        # A daemon thread, so that exit does not wait for a camera that does not respond
        self._thread = threading.Thread(target=self._run, name="view-stream", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread; if the camera does not respond, the thread ends with the process."""
        self._stop.set()
        self._thread.join(0.5)

    def _run(self) -> None:
        delays = ReconnectDelays(first_s=1.0)
        try:
            while not self._stop.wait(_LOOK_S):
                if not self._is_wanted():
                    self._report("")
                    continue
                self._began_s = None
                try:
                    self._stream()
                except SourceError as error:
                    if self._stop.is_set():
                        break
                    _log.warning("view: %s", error)
                    self._report(str(error))
                    began_s = self._began_s
                    worked_s = time.monotonic() - began_s if began_s is not None else 0.0
                    self._stop.wait(delays.failed(error, worked_s))
        finally:
            self._sink.close()

    def _is_wanted(self) -> bool:
        """Return whether the stream is watched, or was within the last seconds."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            if self._sink.is_wanted():
                self._wanted_s = now_s
        return self._wanted_s > 0 and now_s - self._wanted_s < _LINGER_S

    def _stream(self) -> None:
        """Publish the stream until no viewer wants it.

        Raises:
            SourceError: It cannot be opened, or has ended.
        """
        try:
            feed = connect(self._section, self._stop, self._played)
            try:
                self._publish(feed)
            finally:
                feed.close()
                self._sink.clear()
        except Exception as failed:  # also a bug, which is logged: the stream is opened again
            raise as_source_error(self._section.source.shown, failed) from None
        finally:
            self._played.close(self._began_s is not None)

    def _publish(self, feed: Feed) -> None:
        source, facts = self._section.source, feed.facts
        if facts.codec not in _CODECS:
            raise SourceError(
                f"{source} sends {facts.codec}, which viewers cannot play; set H.264 or H.265 in the camera, "
                "or remove view"
            )
        _log.info("view: opened %s (%s %dx%d)", source, facts.codec, facts.width, facts.height)
        self._sink.begin(feed)
        for packet in feed.packets(self._stop):
            if feed.metronome is not None:
                self._stop.wait(feed.metronome.wait_s(packet, time.monotonic()))
            if self._stop.is_set():  # the status reporter may be closed already
                return
            if self._began_s is None:
                self._began_s = time.monotonic()
            self._sink.put(packet, time.monotonic_ns(), time.time_ns())
            self._report("")
            if not self._is_wanted():
                _log.info("view: closed, no viewer is left")
                return
        raise SourceError(f"{source}: the stream has ended")
