"""Values that slots carry."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ColorRange(IntEnum):
    """Limited: luma 16..235 (video). Full: 0..255 (JPEG)."""

    LIMITED = 0
    FULL = 1


class ColorMatrix(IntEnum):
    """How RGB became YUV."""

    BT601 = 0
    BT709 = 1
    BT2020 = 2


@dataclass(frozen=True, slots=True)
class TraceContext:
    """W3C trace context.

    Attributes:
        trace_id: 128 bits, not 0.
        span_id: 64 bits, not 0.
        flags: 8 bits; 1 = sampled.
    """

    trace_id: int
    span_id: int
    flags: int = 1

    @property
    def traceparent(self) -> str:
        """The W3C header of that name."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}"


_LOW = (1 << 64) - 1
NO_TRACE = (0, 0, 0, 0)
TRACE_CODE = "QQQB7x"  # the struct of trace_context.fbs, in module struct's letters


def trace_to_words(trace: TraceContext | None) -> tuple[int, int, int, int]:
    """Return the struct's members; all 0 for None."""
    if trace is None:
        return NO_TRACE
    return trace.trace_id >> 64, trace.trace_id & _LOW, trace.span_id, trace.flags


def trace_from_words(high: int, low: int, span: int, flags: int) -> TraceContext | None:
    """Return the trace context of a struct; None if it is absent."""
    trace_id = high << 64 | low
    return TraceContext(trace_id, span, flags) if trace_id and span else None
