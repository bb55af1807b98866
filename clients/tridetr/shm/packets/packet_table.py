"""Contents of a packet ring (``schemas/packet.fbs``), and the layout of its data area.

::

    slots       EncodedPacket tables: the index
    data area   8 words (the first: OLDEST) | group of each slot | capture time of each slot | bytes of the packets

A *group* is a key frame and the packets up to the next one; its number is the sequence of its key frame, 0 where there
is none. Groups and times are hints for searching; only what is read under the slot's lock is authoritative. The bytes
are stored in the order in which they were written, and wrap around; their memory is allocated from ``/dev/shm`` as the
stream needs it. A packet's slot lock also protects its bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

from tridetr.codec_string import is_annexb
from tridetr.errors import ShmError
from tridetr.shm import layout
from tridetr.shm.layout import Geometry
from tridetr.shm.values import ColorMatrix, ColorRange
from tridetr.wire.spec import Scalar, TableSpec, Text, Vector
from tridetr.wire.view import locate

PACKET = TableSpec(
    b"TDPK",
    (
        Scalar("generation", "Q"),
        Scalar("pts", "q"),
        Scalar("dts", "q"),
        Scalar("duration", "q"),
        Scalar("capture_monotonic_ns", "Q"),
        Scalar("capture_unix_ns", "Q"),
        Scalar("offset", "Q"),
        Scalar("info_offset", "Q"),
        Scalar("size", "I"),
        Scalar("info_size", "I"),
        Scalar("codec", "B"),
        Scalar("flags", "B"),
    ),
)
_NAME_BYTES, _CODEC_STRING_BYTES = 32, 64
STREAM = TableSpec(
    b"TDSI",
    (
        Scalar("time_base_num", "I"),
        Scalar("time_base_den", "I"),
        Scalar("fps", "d"),
        Scalar("width", "I"),
        Scalar("height", "I"),
        Scalar("rotation", "H"),
        Scalar("codec", "B"),
        Scalar("color_range", "B"),
        Scalar("color_matrix", "B"),
        Scalar("reorder", "B"),
        Text("codec_name", _NAME_BYTES),
        Text("codec_string", _CODEC_STRING_BYTES),
        Vector("extradata", 1, 4),
    ),
)
NO_TIME = -(1 << 63)
MAX_EXTRADATA = 64 * 1024
OLDEST = 0  # word of the data area: the lowest sequence that readers should look for
_FIXED_WORDS = 8


class VideoCodec(IntEnum):
    """Codecs that readers know by number."""

    OTHER = 0
    H264 = 1
    HEVC = 2
    MJPEG = 3


class PacketFlags(IntFlag):
    """Properties of a packet."""

    KEY = 1
    DISCONTINUITY = 2
    CORRUPT = 4


@dataclass(frozen=True)
class StreamInfo:
    """Parameters of a stream that a decoder needs.

    Attributes:
        codec: The codec.
        codec_name: FFmpeg's name of it, at most 32 bytes.
        codec_string: WebCodecs' name of it, such as ``avc1.640028``, at most 64 bytes; empty if unknown.
        extradata: Parameter sets with start codes, or an avcC or hvcC record; empty if the packets contain them.
        width: Pixels, before the rotation.
        height: Pixels, before the rotation.
        rotation: Degrees clockwise by which the pictures must be turned to be upright: 0, 90, 180 or 270.
        color_range: Range of the samples.
        color_matrix: Matrix of the samples.
        time_base: Seconds of one unit of the packets' times: numerator, denominator.
        fps: Nominal frames per second; 0 if unknown.
        reorder: Number of pictures that a decoder must hold back to show them in order (B-frames).
    """

    codec: VideoCodec
    codec_name: str
    codec_string: str
    extradata: bytes
    width: int
    height: int
    rotation: int
    color_range: ColorRange
    color_matrix: ColorMatrix
    time_base: tuple[int, int]
    fps: float = 0.0
    reorder: int = 0

    @property
    def is_annexb(self) -> bool:
        """Whether H.264 and H.265 packets have start codes, rather than lengths."""
        return is_annexb(self.extradata)

    def pack(self) -> bytes:
        """Return the parameters as a finished FlatBuffer.

        Raises:
            ShmError: The parameter sets are too long.
        """
        if len(self.extradata) > MAX_EXTRADATA:
            raise ShmError(
                f"the stream's parameter sets take {len(self.extradata)} bytes, at most {MAX_EXTRADATA} are allowed"
            )
        buffer = bytearray(STREAM.build({"extradata": len(self.extradata)}))
        view = memoryview(buffer)
        table = locate(STREAM, view, 0, len(buffer))
        table.record.pack_into(
            view,
            table.record_at,
            self.fps,
            *self.time_base,
            self.width,
            self.height,
            self.rotation,
            self.codec,
            self.color_range,
            self.color_matrix,
            min(self.reorder, 255),
        )
        table.put_text(view, "codec_name", self.codec_name, _NAME_BYTES)
        table.put_text(view, "codec_string", self.codec_string, _CODEC_STRING_BYTES)
        start = table.spans["extradata"].start
        view[start : start + len(self.extradata)] = self.extradata
        return bytes(buffer)

    @classmethod
    def unpack(cls, data: bytes) -> StreamInfo:
        """Read the parameters from a FlatBuffer.

        Raises:
            ShmError: The FlatBuffer is invalid.
        """
        view = memoryview(data)
        table = locate(STREAM, view, 0, len(data))
        fps, numerator, denominator, width, height, rotation, codec, range_, matrix, reorder = (
            table.read(view)
        )
        length = table.length(view, "extradata")
        start = table.spans["extradata"].start
        if not denominator:
            raise ShmError("the stream's time base has the denominator 0")
        try:
            return cls(
                VideoCodec(codec),
                table.text(view, "codec_name"),
                table.text(view, "codec_string"),
                data[start : start + length],
                width,
                height,
                rotation,
                ColorRange(range_),
                ColorMatrix(matrix),
                (numerator, denominator),
                fps,
                reorder,
            )
        except ValueError as error:
            raise ShmError(f"invalid stream parameters: {error}") from None


@dataclass(slots=True)
class PacketStamp:
    """Metadata of a packet.

    Attributes:
        capture_monotonic_ns: Capture time on CLOCK_MONOTONIC [ns].
        capture_unix_ns: Capture time in Unix time [ns].
        pts: In units of the stream's time base; None if unknown.
        dts: Likewise.
        duration: Likewise.
        is_key: Whether decoding can start here.
        discontinuity: Whether packets are missing before this one.
        corrupt: Whether the demuxer marked it as damaged.
    """

    capture_monotonic_ns: int
    capture_unix_ns: int
    pts: int | None = None
    dts: int | None = None
    duration: int | None = None
    is_key: bool = False
    discontinuity: bool = False
    corrupt: bool = False


class DataArea:
    """The data area of a mapped packet ring.

    Attributes:
        words: Its first words.
        groups: For each slot, the sequence of the key frame that its packet depends on.
        times: For each slot, the capture time of its packet (CLOCK_MONOTONIC).
        start: Offset in the file at which the packets' bytes begin.
        end: Offset at which they end at the latest.
    """

    def __init__(self, words: memoryview, geometry: Geometry) -> None:
        """Locate the parts of the area.

        Raises:
            ShmError: The area is too small to hold any packet.
        """
        at = geometry.data_offset // 8
        slots = geometry.slots
        groups = at + _FIXED_WORDS
        self.start = geometry.data_offset + index_size(slots)
        self.end = geometry.file_size
        if self.start >= self.end:
            raise ShmError(f"a data area of {geometry.data_size} bytes holds no packet")
        self.words = words[at:groups]
        self.groups = words[groups : groups + slots]
        self.times = words[groups + slots : groups + 2 * slots]


def index_size(slots: int) -> int:
    """Return the size of a data area before the packets' bytes [bytes]."""
    return layout.round_to_page(8 * (_FIXED_WORDS + 2 * slots))
