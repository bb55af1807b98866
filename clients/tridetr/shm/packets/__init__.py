"""The ring of encoded packets: a camera's own video, before anything decodes it."""

from tridetr.shm.packets.reader import Packet, PacketReader
from tridetr.shm.packets.table import PacketStamp, StreamInfo, VideoCodec
from tridetr.shm.packets.writer import PacketWriter

__all__ = [
    "Packet",
    "PacketReader",
    "PacketStamp",
    "PacketWriter",
    "StreamInfo",
    "VideoCodec",
]
