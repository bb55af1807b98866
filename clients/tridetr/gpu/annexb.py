"""H.264 and H.265 packets as a hardware decoder wants them: start codes, parameter sets before key frames. Pure.

FFmpeg has filters for this, but they read the demuxer's stream, which belongs to another process.
"""

from __future__ import annotations

_START = b"\0\0\0\1"
_START_CODES = (b"\0\0\1", _START)


class AnnexB:
    """Turns the packets of one stream into Annex B bytes.

    >>> AnnexB("h264", bytes.fromhex("00000167"))(bytes.fromhex("00000165"), is_key=True).hex()
    '0000016700000165'
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        """Read what comes before the packets.

        Args:
            codec: "h264" or "hevc".
            extradata: FFmpeg's: empty, parameter sets with start codes (RTSP), or an avcC or hvcC record (MP4, MKV,
                FLV), whose packets have lengths instead of start codes.

        Raises:
            ValueError: it is none of these.
        """
        self._length_size = 0
        self._sets = extradata
        if extradata and not extradata.startswith(_START_CODES):
            try:
                read = _read_avcc if codec == "h264" else _read_hvcc
                self._length_size, sets = read(extradata)
            except IndexError:
                raise ValueError("the stream's parameter sets are damaged") from None
            self._sets = b"".join(_START + unit for unit in sets)

    def __call__(self, data: bytes, *, is_key: bool) -> bytes:
        """Return one packet's bytes.

        Raises:
            ValueError: its lengths make no sense.
        """
        if self._length_size:
            data = b"".join(_START + unit for unit in _units(data, self._length_size))
        return self._sets + data if is_key else data


def _units(data: bytes, length_size: int) -> list[bytes]:
    """Return the units of a packet that has their lengths before them."""
    units, at = [], 0
    while at < len(data):
        begin = at + length_size
        at = begin + int.from_bytes(data[at:begin], "big")
        if at > len(data) or begin > len(data):
            raise ValueError(f"a unit ends {at - len(data)} bytes after its packet")
        units.append(data[begin:at])
    return units


def _take(data: bytes, at: int) -> tuple[bytes, int]:
    """Return a unit with a length of two bytes before it, and where the next one begins."""
    end = at + 2 + (data[at] << 8 | data[at + 1])
    if end > len(data):
        raise IndexError
    return data[at + 2 : end], end


def _read_avcc(record: bytes) -> tuple[int, list[bytes]]:
    """Return the length size and the parameter sets of an AVCDecoderConfigurationRecord."""
    sets: list[bytes] = []
    at = 5
    for mask in (0x1F, 0xFF):  # sequence parameter sets, then picture parameter sets
        count = record[at] & mask
        at += 1
        for _ in range(count):
            unit, at = _take(record, at)
            sets.append(unit)
    return (record[4] & 3) + 1, sets


def _read_hvcc(record: bytes) -> tuple[int, list[bytes]]:
    """Return the length size and the parameter sets of an HEVCDecoderConfigurationRecord."""
    sets: list[bytes] = []
    at = 23
    for _ in range(record[22]):
        count = record[at + 1] << 8 | record[at + 2]
        at += 3
        for _ in range(count):
            unit, at = _take(record, at)
            sets.append(unit)
    return (record[21] & 3) + 1, sets
