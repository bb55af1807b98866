"""The ring of encoded packets: a camera's own video, before anything decodes it."""

from tridetr.shm.packets.packet_reader import Packet, PacketReader
from tridetr.shm.packets.packet_table import PacketStamp, StreamInfo, VideoCodec
from tridetr.shm.packets.packet_writer import PacketWriter

__all__ = [
    "Packet",
    "PacketReader",
    "PacketStamp",
    "PacketWriter",
    "StreamInfo",
    "VideoCodec",
]
