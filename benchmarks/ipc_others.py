"""A picture from one process to another: tridetr's ring compared with ZeroMQ, multiprocessing and iceoryx2.

    python benchmarks/ipc_others.py [--width 1920 --height 1080 --rounds 400] [--json FILE]

All do the same work in turn: one process has a decoded I420 frame in an array and passes it on with its time; the other
is woken and gets it as a numpy array that does not change while it is in use. ``handed_over``: from just before the
copy until then. ``sender``: how long the sender was busy. Microseconds. Each frame is answered with a byte over a pipe
before the next one is sent.
"""

from __future__ import annotations

import multiprocessing
import os
import struct
import tempfile
import time
from collections.abc import Callable
from multiprocessing import shared_memory
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import argument_parser, machine, summary, write_json
from tridetr.shm.frames import ColorMatrix, ColorRange, FrameReader, FrameStamp, FrameWriter
from tridetr.shm.names import unlink_instance

Array = NDArray[np.uint8]
STAMP = struct.Struct("<q")
BLOCK = 10
# A way has a function for each side: it gets the common state and returns a function to call for each frame. That of
# the receiver returns the time in the frame and keeps the array until it has been read.
Look = Callable[[Array], None]
Sender = Callable[[Array], None]
Receiver = Callable[[Look], int]


def ring_sender(shared: dict[str, Any]) -> Sender:
    rows, width = shared["shape"]
    writer = FrameWriter(
        shared["instance"], "cam", width=width, height=rows * 2 // 3, consumers=("gateway",)
    )

    def send(picture: Array) -> None:
        now = time.monotonic_ns()
        slot = writer.begin()
        assert slot is not None
        slot.planes[:] = picture
        writer.publish(slot, FrameStamp(1, now, now, ColorRange.LIMITED, ColorMatrix.BT601))

    return send


def ring_receiver(shared: dict[str, Any]) -> Receiver:
    reader = FrameReader(shared["instance"], "cam", "gateway")
    wakeup = reader.wakeup
    assert wakeup
    wakeup.drain()

    def receive(look: Look) -> int:
        while True:
            wakeup.wait(5)
            if (lease := reader.lease_newest()) is not None:
                with lease:
                    look(lease.planes)
                    return lease.stamp.capture_monotonic_ns

    return receive


def zmq_sender(shared: dict[str, Any]) -> Sender:
    import zmq

    socket = zmq.Context().socket(zmq.PUSH)
    socket.bind(shared["address"])

    def send(picture: Array) -> None:
        # copy=False sends the array's own memory: it must not be overwritten until ZeroMQ is done, so a camera's
        # buffer has to be copied first, as into a ring.
        stamp = STAMP.pack(time.monotonic_ns())
        socket.send_multipart([stamp, picture.copy()], copy=False)

    return send


def zmq_receiver(shared: dict[str, Any]) -> Receiver:
    import zmq

    socket = zmq.Context().socket(zmq.PULL)
    socket.connect(shared["address"])

    def receive(look: Look) -> int:
        stamp, body = socket.recv_multipart(copy=False)
        look(np.frombuffer(body.buffer, np.uint8).reshape(shared["shape"]))
        return int(STAMP.unpack(stamp.buffer)[0])

    return receive


def queue_sender(shared: dict[str, Any]) -> Sender:
    return lambda picture: shared["queue"].put((time.monotonic_ns(), picture.copy()))


def queue_receiver(shared: dict[str, Any]) -> Receiver:
    def receive(look: Look) -> int:
        sent_ns, picture = shared["queue"].get()
        look(picture)
        return int(sent_ns)

    return receive


def shared_sender(shared: dict[str, Any]) -> Sender:
    memory: memoryview = shared["memory"].buf
    there = np.frombuffer(memory, np.uint8, offset=8)[: np.prod(shared["shape"])]
    there = there.reshape(shared["shape"])

    def send(picture: Array) -> None:
        now = time.monotonic_ns()
        with shared["lock"]:
            STAMP.pack_into(memory, 0, now)
            there[:] = picture
        shared["event"].release()

    return send


def shared_receiver(shared: dict[str, Any]) -> Receiver:
    memory: memoryview = shared["memory"].buf
    there = np.frombuffer(memory, np.uint8, offset=8)[: np.prod(shared["shape"])]
    there = there.reshape(shared["shape"])

    def receive(look: Look) -> int:
        shared["event"].acquire()
        with shared["lock"]:
            look(there)
            return int(STAMP.unpack_from(memory, 0)[0])

    return receive


def _iceoryx(shared: dict[str, Any]) -> tuple[Any, Any, Any]:
    import ctypes

    import iceoryx2

    iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
    node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
    name = iceoryx2.ServiceName.new(f"tridetr/{shared['instance']}")
    frames = node.service_builder(name).publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
    events = node.service_builder(name).event()
    return node, frames.open_or_create(), events.open_or_create()


def iceoryx_sender(shared: dict[str, Any]) -> Sender:
    node, frames, events = _iceoryx(shared)
    size = int(np.prod(shared["shape"]))
    publisher = frames.publisher_builder().initial_max_slice_len(size + 8).create()
    notifier = events.notifier_builder().create()

    def send(picture: Array, _keep: Any = node) -> None:
        now = time.monotonic_ns()
        sample = publisher.loan_slice_uninit(size + 8)
        there = sample.payload().as_memory_view().cast("B")
        STAMP.pack_into(there, 0, now)
        np.frombuffer(there, np.uint8, size, 8).reshape(picture.shape)[:] = picture
        sample.assume_init().send()
        notifier.notify()

    return send


def iceoryx_receiver(shared: dict[str, Any]) -> Receiver:
    node, frames, events = _iceoryx(shared)
    subscriber = frames.subscriber_builder().create()
    listener = events.listener_builder().create()
    size = int(np.prod(shared["shape"]))

    def receive(look: Look, _keep: Any = node) -> int:
        import iceoryx2

        while True:
            sample = subscriber.receive()
            if sample is None:
                listener.timed_wait(iceoryx2.Duration.from_secs(5))
                continue
            body = sample.payload().as_memory_view().cast("B")
            look(np.frombuffer(body, np.uint8, size, 8).reshape(shared["shape"]))
            sent_ns = int(STAMP.unpack_from(body, 0)[0])
            sample.delete()
            return sent_ns

    return receive


WAYS: dict[str, tuple[Callable[..., Sender], Callable[..., Receiver]]] = {
    "tridetr ring": (ring_sender, ring_receiver),
    "iceoryx2": (iceoryx_sender, iceoryx_receiver),
    "multiprocessing.shared_memory, lock": (shared_sender, shared_receiver),
    "ZeroMQ ipc, copy=False": (zmq_sender, zmq_receiver),
    "multiprocessing.Queue": (queue_sender, queue_receiver),
}


def serve(way: str, shared: dict[str, Any], pipe: Connection) -> None:
    """Run the receiving process: answer each frame with the time that it took [µs]."""
    receive = WAYS[way][1](shared)
    pipe.send("ready")
    seen: list[float] = []

    def look(picture: Array) -> None:
        seen.append(time.monotonic_ns())
        assert picture.shape == shared["shape"]

    while True:
        sent_ns = receive(look)
        pipe.send((seen.pop() - sent_ns) / 1e3)


def measure(shape: tuple[int, int], instance: str, rounds: int, memory: Any) -> dict[str, Any]:
    """Take turns with all ways; return both times of each frame."""
    spawn = multiprocessing.get_context("spawn")
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    rows: dict[str, dict[str, list[float]]] = {}
    senders: dict[str, tuple[Sender, Connection]] = {}
    children = []
    with tempfile.TemporaryDirectory() as folder:
        shared = {
            "shape": shape,
            "instance": instance,
            "address": f"ipc://{folder}/socket",
            "memory": memory,
            "lock": spawn.Lock(),
            "event": spawn.Semaphore(0),
            "queue": spawn.Queue(),
        }
        try:
            for way, (make_sender, _) in WAYS.items():
                ours, theirs = spawn.Pipe()
                child = spawn.Process(target=serve, args=(way, shared, theirs), daemon=True)
                child.start()
                children.append(child)
                senders[way] = make_sender(shared), ours
                assert ours.recv() == "ready"
                rows[way] = {"handed_over": [], "sender": []}
            for turn in range(-1, max(2, rounds // BLOCK)):
                for way, (sender, pipe) in senders.items():
                    for _ in range(BLOCK):
                        began = time.perf_counter_ns()
                        sender(picture)
                        busy = (time.perf_counter_ns() - began) / 1e3
                        if not pipe.poll(10):
                            raise SystemExit(f"{way}: the frame did not come")
                        took = pipe.recv()
                        if turn >= 0:
                            rows[way]["handed_over"].append(took)
                            rows[way]["sender"].append(busy)
        finally:
            for child in children:
                child.kill()
                child.join()
    return rows


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--rounds", type=int, default=400)
    options = parser.parse_args()
    shape = (options.height * 3 // 2, options.width)
    instance = f"bench{os.getpid()}"
    memory = shared_memory.SharedMemory(create=True, size=8 + shape[0] * shape[1])
    try:
        rows = measure(shape, instance, options.rounds, memory)
    finally:
        memory.unlink()
        unlink_instance(instance, ["cam"])
    figures = {
        way: {name: summary(v) for name, v in series.items()} for way, series in rows.items()
    }
    result = {
        "benchmark": "ipc_others",
        "unit": "us",
        "machine": machine(),
        "frame": {"width": options.width, "height": options.height},
        "figures": figures,
    }
    for way, series in figures.items():
        for name, measured in series.items():
            row = "".join(f" {value:9.1f}" for value in measured.values())
            print(f"{way:40} {name:12}{row}")
    write_json(options, result)


if __name__ == "__main__":
    main()
