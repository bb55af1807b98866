"""Codec strings (RFC 6381) for WebCodecs and `video/mp4; codecs=…`, and H.264/H.265 parameter sets. Pure functions."""

from __future__ import annotations

import re

_START_CODE = re.compile(rb"\x00\x00\x00?\x01")
HEAD_BYTES = 4096  # a key frame's parameter sets are within this many bytes of its start
_H264_SPS = 7
_HEVC_SPS = 33


def codec_string(codec: str, extradata: bytes) -> str:
    """Return the codec string of an H.264 or H.265 stream; empty if it cannot be determined.

    Args:
        codec: FFmpeg's name of the codec.
        extradata: parameter sets with start codes, or an avcC or hvcC record.

    >>> codec_string("h264", bytes.fromhex("000000016742c01eda0280f6"))
    'avc1.42c01e'
    >>> codec_string("h264", bytes.fromhex("014d401fffe10019674d401f"))
    'avc1.4d401f'
    """
    annexb = is_annexb(extradata)
    if codec == "h264":
        record = _first(units(extradata), _H264_SPS, 0x1F, 0) if annexb else extradata
        return f"avc1.{record[1:4].hex()}" if len(record) >= 4 else ""
    if codec == "hevc":
        if annexb:
            unit = _first(units(extradata), _HEVC_SPS, 0x3F, 1)
            # Two header bytes and one byte of layers, then the same fields as in hvcC
            return _hevc(re.sub(rb"\x00\x00\x03", b"\0\0", unit)[3:15])
        return _hevc(extradata[1:13])
    return ""


def is_annexb(extradata: bytes) -> bool:
    """Return whether parameter sets use start codes (Annex B).

    Empty ``extradata`` counts as Annex B: the packets then carry the parameter sets.
    """
    return not extradata or _START_CODE.match(extradata) is not None


def units(data: bytes) -> list[bytes]:
    """Split Annex B data at its start codes and return the NAL units.

    >>> [unit.hex() for unit in units(bytes.fromhex("00000001 6742 000001 68ce"))]
    ['6742', '68ce']
    """
    return [kept for unit in _START_CODE.split(data) if (kept := unit.rstrip(b"\0"))]


def has_parameter_sets(codec: str, packet: bytes) -> bool:
    """Return whether an Annex B packet contains a sequence parameter set."""
    kind, mask, shift = (_H264_SPS, 0x1F, 0) if codec == "h264" else (_HEVC_SPS, 0x3F, 1)
    return any(unit[0] >> shift & mask == kind for unit in units(packet[:HEAD_BYTES]))


def _first(found: list[bytes], kind: int, mask: int, shift: int) -> bytes:
    return next((unit for unit in found if unit[0] >> shift & mask == kind), b"")


def _hevc(profile: bytes) -> str:
    """Return the codec string for a profile_tier_level structure of 12 bytes."""
    if len(profile) < 12:
        return ""
    space = ("", "A", "B", "C")[profile[0] >> 6]
    compatibility = int(f"{int.from_bytes(profile[1:5], 'big'):032b}"[::-1], 2)
    tier = "H" if profile[0] & 0x20 else "L"
    constraints = "".join(f".{byte:X}" for byte in profile[5:11].rstrip(b"\0"))
    return f"hvc1.{space}{profile[0] & 0x1F}.{compatibility:X}.{tier}{profile[11]}{constraints}"
