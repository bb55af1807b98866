"""An RTSP server that leaves out chosen RTP packets of a stream, as a lossy network does."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import av

from support.tcp_server import tcp_server
from support.waiting import wait_for

_PAYLOAD_BYTES = "1400"  # as cameras send
_RTCP_TYPES = range(72, 77)  # without the marker bit
_MAX_DELAY_S = 0.1  # after which a missing packet counts as lost
_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 {name}/90000\r\n{config}a=control:video\r\n"
)


class _Packets:
    """A file that the RTP muxer writes to, one packet at a time."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> int:
        if data[1] & 127 not in _RTCP_TYPES:
            self.written.append(bytes(data))
        return len(data)


def rtp_packets(clip: Path) -> list[bytes]:
    """Return the RTP packets of a clip.

    The parameter sets of H.264 and H.265 must be in its packets, as in MPEG-TS.
    """
    found = _Packets()
    with (
        av.open(clip) as source,
        av.open(
            found, "w", format="rtp", container_options={"packetsize": _PAYLOAD_BYTES}
        ) as sender,
    ):
        stream = sender.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                sender.mux(packet)
    return found.written


def _is_read(port: int) -> bool:
    """Return whether no packet waits at a UDP port."""
    lines = Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]
    waiting = {line.split()[1][-4:]: line.split()[4].partition(":")[2] for line in lines}
    return int(waiting.get(f"{port:04X}", "0"), 16) == 0


@contextlib.contextmanager
def lossy_camera(
    rtp: Sequence[bytes],
    lost: Collection[int | None],
    *,
    codec: str,
    header: bytes = b"",
    interval_s: float = 0.0,
    range_s: float | None = None,
    doubled: Collection[int] = (),
    copies: int = 2,
    delay: int = 0,
) -> Iterator[str]:
    """Serve RTP packets except the lost ones, once, over TCP or UDP; yields the URL.

    Args:
        rtp: RTP packets.
        lost: indexes of the packets to leave out; None for no packet.
        codec: "hevc", "h264" or "mpeg4".
        header: the stream header of MPEG-4, which is sent outside the video.
        interval_s: time between two packets [s].
        range_s: length of the stream that the camera announces [s]; None if it announces none.
        doubled: indexes of the packets that the network delivers more than once over UDP.
        copies: how often.
        delay: number of other packets after which the copies come.
    """
    done = threading.Event()
    name = {"hevc": "H265", "h264": "H264", "mpeg4": "MP4V-ES"}[codec]
    config = f"a=fmtp:96 profile-level-id=1;config={header.hex()}\r\n" if header else ""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            udp, ports = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), []
            with udp:
                udp.bind(("127.0.0.1", 0))
                while line := self.rfile.readline().decode():
                    text = line
                    while (more := self.rfile.readline().decode()).strip():
                        text += more
                    number = text.partition("CSeq: ")[2].split()[0]
                    method, head, body = line.split()[0], "", ""
                    if method == "DESCRIBE":
                        body = _SDP.format(name=name, config=config)
                        if range_s is not None:
                            body = body.replace("m=", f"a=range:npt=0-{range_s:g}\r\nm=", 1)
                        head = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
                    elif method == "SETUP":
                        asked = text.partition("Transport: ")[2].splitlines()[0]
                        if "client_port=" in asked:
                            ports = asked.partition("client_port=")[2].split(";")[0].split("-")
                            own = udp.getsockname()[1]
                            asked += f";server_port={own}-{own + 1};source=127.0.0.1"
                        head = f"Transport: {asked}\r\nSession: 1\r\n"
                    elif method == "OPTIONS":
                        head = "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                    self.wfile.write(
                        f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{head}\r\n{body}".encode()
                    )
                    if method == "PLAY":
                        break
                for index, packet in enumerate(rtp):
                    if index in lost:
                        continue
                    if ports:
                        late = rtp[index - delay] if index - delay in doubled else b""
                        for one in [packet, *[late] * (copies - 1)]:
                            if one:
                                udp.sendto(one, ("127.0.0.1", int(ports[0])))
                    else:
                        self.wfile.write(b"$\0" + len(packet).to_bytes(2, "big") + packet)
                    if interval_s and done.wait(interval_s):
                        break
                if ports:
                    wait_for(lambda: _is_read(int(ports[0])), 30, "the packets to be read")
                    done.wait(2 * _MAX_DELAY_S)
                    goodbye = b"\x81\xcb\0\1" + rtp[0][8:12]  # RTCP BYE
                    udp.sendto(goodbye, ("127.0.0.1", int(ports[1])))

    with tcp_server(Handler) as port:
        try:
            yield f"rtsp://127.0.0.1:{port}/video"
        finally:
            done.set()
