"""Boards: latest-value channels, that is, small rings of which only the newest entry matters (sentry, status)."""

from tridetr.shm.boards.board_reader import SentryReader, StatusReader
from tridetr.shm.boards.board_table import (
    BlindReason,
    CameraState,
    CameraStatus,
    SentryMode,
    SentrySnapshot,
    SentryState,
)
from tridetr.shm.boards.board_writer import SentryWriter, StatusWriter

__all__ = [
    "BlindReason",
    "CameraState",
    "CameraStatus",
    "SentryMode",
    "SentryReader",
    "SentrySnapshot",
    "SentryState",
    "SentryWriter",
    "StatusReader",
    "StatusWriter",
]
