"""Finds live cameras that deliver too few good pictures to be watched by: most are damaged, or they come too seldom."""

from __future__ import annotations

from tridetr.mean_interval import MeanInterval

_S = 1_000_000_000
_WINDOW_NS = 30 * _S  # in which damaged and good pictures are counted
_FEW = 3  # fewer damaged pictures in a window prove nothing
_CALM_NS = 60 * _S  # without a long gap until the camera's pictures count as frequent again
_DAMAGE = "most pictures are damaged; check the cable, the network and the camera"
_LONG = 0.9  # of unknown_s; the rest is for inference and decision


class Delivery:
    """Judges a live camera's pictures by when they arrive. Pure: all times are arguments (monotonic) [ns].

    A single gap or a short disturbance is not a fault; a fault lasts until the pictures have been in order for a while,
    so that it does not flicker.

    Attributes:
        fault: What is wrong with the pictures; empty if nothing is.
    """

    def __init__(self, unknown_s: float, longest_interval_s: float) -> None:
        """Set the limits.

        Args:
            unknown_s: The camera's `sentry.unknown_s`, after which its state is Unknown without a result.
            longest_interval_s: Longest average time between pictures with which a person is confirmed in time.
        """
        self._unknown_s = unknown_s
        self._mean = MeanInterval(longest_interval_s)
        self._long_ns = round(unknown_s * _LONG * _S)
        self._from_ns = 0
        self._good = self._damaged = 0
        self._is_damaged = False  # a picture since the last good one
        self._damage = self._gaps = self._rate = ""
        self._last_ns: int | None = None
        self._long_at_ns: int | None = None  # end of the newest long gap

    @property
    def fault(self) -> str:
        return self._damage or self._gaps or self._rate

    def reopened(self) -> None:
        """Start a new connection: the time before it was not a gap between pictures."""
        self._last_ns = None

    def good(self, now_ns: int) -> None:
        """Count a picture that is not damaged, as far as known."""
        self._good += 1
        self._count(now_ns)
        last_ns, self._last_ns = self._last_ns, now_ns
        if last_ns is not None and now_ns - last_ns < self._long_ns:
            self._average((now_ns - last_ns) / _S)
        if last_ns is not None and now_ns - last_ns >= self._long_ns:
            before_ns, self._long_at_ns = self._long_at_ns, now_ns
            if before_ns is not None and last_ns - before_ns < _CALM_NS and not self._gaps:
                self._gaps = (
                    _DAMAGE
                    if self._is_damaged
                    else (
                        f"a picture comes only every {(now_ns - last_ns) / _S:.1f} s, too seldom for unknown_s "
                        f"({self._unknown_s:g} s); raise unknown_s, or let the camera send more often"
                    )
                )
        elif self._long_at_ns is not None and now_ns - self._long_at_ns >= _CALM_NS:
            self._gaps = ""
        self._is_damaged = False

    def doubtful(self, now_ns: int) -> None:
        """Count a picture that can show traces of a damaged one."""
        self._damaged += 1
        self._last_ns = now_ns
        self._count(now_ns)

    def damaged(self, now_ns: int) -> None:
        """Count a damaged picture."""
        self._damaged += 1
        self._is_damaged = True
        self._count(now_ns)

    def _average(self, interval_s: float) -> None:
        self._mean.add(interval_s)
        if not self._mean.is_long:
            self._rate = ""
        elif not self._rate:
            self._rate = (
                f"a picture comes only every {interval_s:.1f} s, too seldom to confirm a person who passes quickly; "
                "let the camera send more often, or raise unknown_s"
            )

    def _count(self, now_ns: int) -> None:
        if now_ns - self._from_ns < _WINDOW_NS:
            return
        good, damaged = self._good, self._damaged
        self._from_ns, self._good, self._damaged = now_ns, 0, 0
        if damaged >= _FEW and damaged > good:
            self._damage = _DAMAGE
        elif damaged <= good / 4:
            self._damage = ""
