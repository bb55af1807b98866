"""Forward the server's log lines to our logger, with their levels."""

from __future__ import annotations

import logging
import re
from collections import deque
from typing import Final

_LINE: Final = re.compile(
    r"""^(?:\S+Z\ (?P<iso>[EWIVF])\ \d+   # 2026-11-22T04:47:57Z I 8481 file.cc:12] "text"
         |(?P<glog>[EWIVF])\d{4}\ \S+\ \d+  # I1122 04:47:56.534015 8490 file.py:6]  text
        )\ (?P<file>[^:\]]+):\d+\]\ +(?P<text>.*)$""",
    re.VERBOSE,
)
_OWN: Final = re.compile(r"\S+Z [EWIVF] \d+ |[EWIVF]\d{4} ")
_LEVELS: Final = {
    "F": logging.CRITICAL, "E": logging.ERROR, "W": logging.WARNING, "I": logging.INFO, "V": logging.DEBUG,
}  # fmt: skip
# Logged on every machine without an NVIDIA GPU; harmless.
_NO_GPU: Final = (
    "pinned_memory_manager.cc",
    "CudaDriverHelper",
    "CUDA memory pool disabled",
    "DCGM",
)
_NO_TCP: Final = "NODELAY NOT SUPPORTED"  # the metrics listen on a Unix socket
_KEPT_LINES: Final = 20
_LONGEST: Final = 400  # maximum length of a line in an error message
_INSTANCE: Final = re.compile(r"TRITONBACKEND_ModelInstanceInitialize: \S+ \((\w+) device (\d+)\)")


class ServerLog:
    """Converts lines to log records, and keeps the last important ones for the error message of a failed start.

    Attributes:
        lines: number of lines so far.
        device: device on which the server placed the model (`CPU`, `GPU 0`); empty until it was logged.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self.lines = 0
        self.device = ""
        self._important: deque[str] = deque(maxlen=_KEPT_LINES)
        self._last = ""

    @property
    def last_words(self) -> list[str]:
        """The lines that explain a failure, oldest first, without repetitions.

        These are errors, and lines of other programs that the server starts: a shell, the dynamic linker, Python, the
        C++ runtime. If there are none, the server's last line.
        """
        lines = dict.fromkeys(line[:_LONGEST] for line in self._important)
        return list(lines) or [self._last or "it logged nothing"]

    def feed(self, line: str) -> None:
        """Forward one line to the logger."""
        self.lines += 1
        level, text = parse(line)
        if not text:
            return
        if instance := _INSTANCE.search(text):
            self.device = f"GPU {instance[2]}" if instance[1] == "GPU" else instance[1]
        self._last = text
        if level >= logging.ERROR or _is_foreign(line):
            self._important.append(text)
        self._logger.log(level, "%s", text)


def _is_foreign(line: str) -> bool:
    """Return whether another program wrote a line; indented lines (of a traceback) do not count."""
    return not (line[:1].isspace() or _OWN.match(line) or len(line.strip()) < 4)


def parse(line: str) -> tuple[int, str]:
    """Return the logging level and the text of a line; the text is empty for lines to drop (tables).

    The server's own info messages are demoted to debug; those of Python models stay info.
    """
    line = line.rstrip()
    match = _LINE.match(line)
    if match is None:
        if line.startswith("error:"):
            return logging.ERROR, line.removeprefix("error:").strip()
        is_noise = line.startswith(("|", "+-")) or _NO_TCP in line
        return logging.DEBUG, "" if is_noise else line
    text = match["text"].strip().strip('"')
    level = _LEVELS[match["iso"] or match["glog"]]
    if any(word in line for word in _NO_GPU):
        return logging.DEBUG, text
    if level == logging.INFO and not match["file"].endswith(".py"):
        return logging.DEBUG, text
    return level, text
