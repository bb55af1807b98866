"""Types of the values that slots carry."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ColorRange(IntEnum):
    """Limited: luma 16..235 (video). Full: 0..255 (JPEG)."""

    LIMITED = 0
    FULL = 1


class ColorMatrix(IntEnum):
    """Matrix by which RGB was converted to YUV."""

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
        """Value of the W3C header ``traceparent``.

        >>> TraceContext(trace_id=10, span_id=11).traceparent
        '00-0000000000000000000000000000000a-000000000000000b-01'
        """
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}"


_LOW = (1 << 64) - 1
NO_TRACE = (0, 0, 0, 0)
TRACE_CODE = "QQQB7x"  # the struct of trace_context.fbs as a format of module struct


def trace_to_words(trace: TraceContext | None) -> tuple[int, int, int, int]:
    """Return the members of the struct in the schema; all 0 for None."""
    if trace is None:
        return NO_TRACE
    return trace.trace_id >> 64, trace.trace_id & _LOW, trace.span_id, trace.flags


def trace_from_words(high: int, low: int, span: int, flags: int) -> TraceContext | None:
    """Return the trace context of a struct; None if it is absent."""
    trace_id = high << 64 | low
    return TraceContext(trace_id, span, flags) if trace_id and span else None
