"""A USB camera (UVC) in software, plugged into the kernel's virtual host controller (USB/IP).

What reads it is the kernel's own `uvcvideo`. It streams over a bulk endpoint, which UVC allows and
which spares the timing of isochronous packets. Numbers are those of the USB 2.0 and UVC 1.0
specifications and of Documentation/usb/usbip_protocol.rst.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

CONTROLLER = Path("/sys/devices/platform/vhci_hcd.0")
PORT, HIGH_SPEED, DEVICE_ID = 0, 3, 0x10002
SIZES = ((640, 360), (1280, 720))
FPS = 25
PAYLOAD = 16384  # bytes of one bulk transfer
MAX_FRAME = 1280 * 720 * 2
INTERVAL = 10_000_000 // FPS  # in units of 100 ns
HEADER = struct.Struct(">IIIII28s")
SUBMIT, UNLINK, SUBMITTED, UNLINKED = 1, 2, 3, 4
OUT = 0
MJPEG_FORMAT, YUYV_FORMAT = 1, 2
YUY2_GUID = b"YUY2\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"


def _descriptor(kind: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((len(body) + 2, kind)) + body


def _frames(subtype: int, bytes_per_pixel: int) -> bytes:
    return b"".join(
        _descriptor(
            0x24,
            struct.pack("<BBBHH", subtype, index, 0, width, height),
            struct.pack("<III", 1_000_000, 100_000_000, width * height * bytes_per_pixel),
            struct.pack("<IBI", INTERVAL, 1, INTERVAL),
        )
        for index, (width, height) in enumerate(SIZES, start=1)
    )


def _configuration() -> bytes:
    camera = _descriptor(0x24, struct.pack("<BBHBBHHHBH", 2, 1, 0x0201, 0, 0, 0, 0, 0, 2, 0))
    output = _descriptor(0x24, struct.pack("<BBHBBB", 3, 2, 0x0101, 0, 1, 0))
    control_length = 13 + len(camera) + len(output)
    control = _descriptor(0x24, struct.pack("<BHHIBB", 1, 0x0100, control_length, 48_000_000, 1, 1))
    formats = [
        _descriptor(0x24, struct.pack("<BBBBBBBBB", 6, MJPEG_FORMAT, len(SIZES), 0, 1, 0, 0, 0, 0)),
        _frames(7, 2),
        _descriptor(
            0x24,
            struct.pack("<BBB16s", 4, YUYV_FORMAT, len(SIZES), YUY2_GUID),
            struct.pack("<BBBBBB", 16, 1, 0, 0, 0, 0),
        ),
        _frames(5, 2),
    ]
    streaming = b"".join(formats)
    header = struct.pack("<BBHBBBBBBBBB", 1, 2, 15 + len(streaming), 0x81, 0, 2, 0, 0, 0, 1, 0, 0)
    body = b"".join(
        [
            _descriptor(0x0B, bytes((0, 2, 0x0E, 3, 0, 0))),  # both interfaces are one function
            _descriptor(0x04, bytes((0, 0, 0, 0x0E, 1, 0, 0))),
            control + camera + output,
            _descriptor(0x04, bytes((1, 0, 1, 0x0E, 2, 0, 0))),
            _descriptor(0x24, header) + streaming,
            _descriptor(0x05, struct.pack("<BBHB", 0x81, 2, 512, 0)),
        ]
    )
    return _descriptor(0x02, struct.pack("<HBBBBB", 9 + len(body), 2, 1, 0, 0x80, 50)) + body


DEVICE = _descriptor(
    0x01, struct.pack("<HBBBBHHHBBBB", 0x0200, 0xEF, 2, 1, 64, 0x1D6B, 0x0102, 1, 0, 1, 0, 1)
)
CONFIGURATION = _configuration()
STRINGS = {0: b"\x09\x04", 1: "Software camera".encode("utf-16-le")}


class UsbCamera:
    """A camera, plugged in when the context begins and unplugged at its end.

    Args:
        frame_of: Gives the bytes of frame n in the chosen format (`MJPEG_FORMAT` or `YUYV_FORMAT`)
            and size.
    """

    def __init__(self, frame_of: Callable[[int, int, tuple[int, int]], bytes]) -> None:
        self._frame_of = frame_of
        self._waiting: deque[int] = deque()  # transfers that the host wants filled
        self._payloads: deque[bytes] = deque()
        self._count = 0
        self._due = time.monotonic()
        self._chosen = struct.pack("<HBBI", 0, MJPEG_FORMAT, 1, INTERVAL).ljust(26, b"\0")

    def __enter__(self) -> UsbCamera:
        self.plug()
        return self

    def plug(self) -> None:
        """Plug it in; the kernel finds it soon after."""
        self._waiting.clear()
        self._payloads.clear()
        ours, kernels = socket.socketpair()
        self._socket = ours
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        attach = f"{PORT} {kernels.fileno()} {DEVICE_ID} {HIGH_SPEED}"
        (CONTROLLER / "attach").write_text(attach)
        kernels.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.unplug()

    def unplug(self) -> None:
        """Pull the plug; may be called twice."""
        if self._thread.is_alive():
            (CONTROLLER / "detach").write_text(str(PORT))
            self._thread.join(10)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            wait_s = max(0.0, self._due - time.monotonic()) if self._waiting else None
            if select.select([self._socket], [], [], wait_s)[0]:
                request = self._receive(HEADER.size)
                if not request:
                    return
                self._handle(request)
            self._stream()

    def _handle(self, request: bytes) -> None:
        command, sequence, _, direction, endpoint, rest = HEADER.unpack(request)
        if command == UNLINK:
            (target,) = struct.unpack_from(">I", rest)
            pending = target in self._waiting
            if pending:
                self._waiting.remove(target)
            status = -errno.ECONNRESET if pending else 0
            self._send(UNLINKED, sequence, struct.pack(">i", status))
            return
        _, length = struct.unpack_from(">Ii", rest)
        data = self._receive(length) if direction == OUT and length else b""
        if endpoint:
            self._waiting.append(sequence)
            return
        answer = self._control(rest[20:28], data)
        if answer is None:  # a stall: the camera does not know this request
            self._send(SUBMITTED, sequence, struct.pack(">ii", -errno.EPIPE, 0))
        elif direction == OUT:
            self._send(SUBMITTED, sequence, struct.pack(">ii", 0, length))
        else:
            answer = answer[:length]
            self._send(SUBMITTED, sequence, struct.pack(">ii", 0, len(answer)), answer)

    def _control(self, setup: bytes, data: bytes) -> bytes | None:
        kind, request, value, index, _ = struct.unpack("<BBHHH", setup)
        if (kind, request) == (0x80, 0x06):
            return self._descriptor(value)
        if kind & 0x60 == 0:  # other standard requests: taken for granted
            return b"\0\0"
        if index & 0xFF != 1 or value >> 8 not in (1, 2):  # neither probe nor commit
            return None
        if request == 0x01:
            self._chosen = data.ljust(26, b"\0")[:26]
            self._payloads.clear()
            return b""
        if request == 0x85:
            return struct.pack("<H", 26)
        if request == 0x86:
            return b"\x03"
        chosen_format = min(max(self._chosen[2], 1), 2)
        chosen_frame = min(max(self._chosen[3], 1), len(SIZES))
        fixed = struct.pack(
            "<HBBI10xII", 0, chosen_format, chosen_frame, INTERVAL, MAX_FRAME, PAYLOAD
        )
        return fixed

    def _descriptor(self, value: int) -> bytes | None:
        kind, index = value >> 8, value & 0xFF
        if kind == 3 and index in STRINGS:
            return _descriptor(3, STRINGS[index])
        return {1: DEVICE, 2: CONFIGURATION}.get(kind)

    def _stream(self) -> None:
        if self._waiting and not self._payloads and time.monotonic() >= self._due:
            self._due = time.monotonic() + 1 / FPS
            size = SIZES[min(max(self._chosen[3], 1), len(SIZES)) - 1]
            frame = self._frame_of(self._count, self._chosen[2], size)
            room = PAYLOAD - 2
            parts = [frame[start : start + room] for start in range(0, len(frame), room)]
            for number, part in enumerate(parts, start=1):
                last = 0x02 if number == len(parts) else 0
                self._payloads.append(bytes((2, 0x80 | last | self._count & 1)) + part)
            self._count += 1
        while self._waiting and self._payloads:
            payload = self._payloads.popleft()
            status = struct.pack(">ii", 0, len(payload))
            self._send(SUBMITTED, self._waiting.popleft(), status, payload)

    def _send(self, command: int, sequence: int, rest: bytes, data: bytes = b"") -> None:
        header = HEADER.pack(command, sequence, 0, 0, 0, rest)
        try:
            self._socket.sendall(header + data)
        except OSError:  # unplugged meanwhile; the next read says so
            self._waiting.clear()

    def _receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            try:
                part = self._socket.recv(length - len(data))
            except OSError:
                return b""
            if not part:
                return b""
            data += part
        return data
