"""The motion gate does not change visits, on real footage with three kinds of noise and on the drawn street.

The gate, the rings and the state machine are real and run in media time, with models that detect real people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import av
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from support.data import FOOTAGE, ORACLE, shared
from support.rings import frame_stamp, result_stamp
from tridetr.config import DetectSection, SentrySection
from tridetr.controller.state_machine import STANDBY, Memory, Result, State, Transition, step
from tridetr.detector.gate import MotionGate
from tridetr.paths import model_repository_dir
from tridetr.shm.boards import SentryMode, SentrySnapshot, SentryState, SentryWriter
from tridetr.shm.detections import DETECTION_DTYPE
from tridetr.shm.frames import FrameReader, FrameWriter
from tridetr_demo.scene import SyntheticCamera

Planes = NDArray[np.uint8]
FPS = 10
NS = 1_000_000_000
PERSON = 1
LEAST_SCORE = 0.5
WIDTH, HEIGHT = 768, 432
FIRST, LAST = 447, 790  # of the footage: two people arrive, each after a quiet period


def decoded(path: Path, first: int = 0, last: int | None = None) -> Iterator[Planes]:
    with av.open(str(path)) as container:
        for frame in islice(container.decode(video=0), first, last):
            yield frame.to_ndarray(format="yuv420p")


def grainy(planes: Planes, rng: np.random.Generator, sigma: float = 3.0) -> Planes:
    noise = rng.standard_normal((HEIGHT, WIDTH), np.float32) * sigma
    made: Planes = planes.copy()
    made[:HEIGHT] = np.clip(planes[:HEIGHT] + noise + 0.5, 0, 255)
    return made


def infrared(planes: Planes, rng: np.random.Generator) -> Planes:
    """Grey, dark and noisy, like a camera with weak infrared light."""
    made = np.full_like(planes, 128)
    made[:HEIGHT] = 16 + (planes[:HEIGHT].astype(np.float32) - 16) * 0.22
    return grainy(made, rng, 4.0)


def encoded(path: Path, film: Iterator[Planes], **options: str) -> Iterator[Planes]:
    """Return a film after encoding with H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=FPS, options={"preset": "veryfast", **options}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for planes in film:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())
    return decoded(path)


def footage_with_noise(kind: str, folder: Path) -> Iterator[Planes]:
    rng = np.random.default_rng(5)
    film = decoded(shared(*FOOTAGE), FIRST, LAST)
    made = partial(encoded, folder / f"{kind}.mp4")
    if kind == "sensor noise":
        return made((grainy(planes, rng) for planes in film), crf="23", g="25")
    if kind == "low bitrate":
        return made(film, b="90k", maxrate="90k", bufsize="180k", g="50")
    dark = (infrared(planes, rng) for planes in film)
    if kind == "infrared":
        return made(dark, crf="26", g="25")
    # People move at a quarter of the speed, with fresh noise in each frame.
    slow = (infrared(planes, rng) for planes in islice(film, 160) for _ in range(4))
    return made(slow, crf="26", g="25")


def drawn_street() -> Iterator[Planes]:
    camera = SyntheticCamera(WIDTH, HEIGHT, seed=7, scene="street")
    for number in range(40 * FPS):
        planes = np.empty((HEIGHT * 3 // 2, WIDTH), np.uint8)
        camera.draw(number / FPS, planes)
        yield planes


class Model:
    """Returns the best score of a person in a frame of a film, computed on demand."""

    def __init__(self, file: Path, film: Iterator[Planes]) -> None:
        self._session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        self.film = list(film)
        self._known: dict[int, float] = {}

    def __call__(self, number: int) -> float:
        if number not in self._known:
            frame = {"frame": self.film[number][None]}
            scores, classes = self._session.run(["scores", "classes"], frame)
            self._known[number] = float(scores[classes == PERSON].max(initial=0.0))
        return self._known[number]


class Node:
    """One camera's rings, gate and decisions, in media time."""

    def __init__(self, instance: str, gate_s: float) -> None:
        self.frames = FrameWriter(instance, "cam", width=WIDTH, height=HEIGHT)
        self.reader = FrameReader(instance, "cam", None)
        self.board = SentryWriter(instance, "cam")
        self.gate = MotionGate(instance, "cam", DetectSection(motion_gate_s=gate_s))
        self.keys = SentrySection()
        self.looks = self.skips = 0  # in standby

    def decide(
        self, film: list[Planes], score: Callable[[int], float], now: Callable[[int], None]
    ) -> list[tuple[Transition, int]]:
        """Return the transitions of visits and their frames."""
        memory: Memory = STANDBY
        decided, last = [], -NS
        for number, planes in enumerate(film):
            at = (number + FPS) * NS // FPS
            calm = memory.state is State.STANDBY
            if calm and at - last < NS / self.keys.standby_fps:
                continue
            last = at
            now(at)
            mode = SentryMode.STANDBY if calm else SentryMode.ALARMED
            self.board.write(SentrySnapshot(mode, SentryState[memory.state.name], 1, "", at + NS))
            seen = Result(self._look(planes, number, at, score, calm), at)
            memory, transition = step(memory, seen, self.keys)
            if transition:
                decided.append((transition, number))
        return decided

    def _look(
        self, planes: Planes, number: int, at: int, score: Callable[[int], float], calm: bool
    ) -> bool:
        slot = self.frames.begin()
        assert slot is not None
        slot.planes[:] = planes
        self.frames.publish(slot, frame_stamp(number))
        lease = self.reader.lease_newest()
        assert lease is not None
        with lease:
            if self.gate.answer_for(lease) is not None:
                assert calm
                self.skips += 1
                return False
        self.looks += calm
        best = score(number)
        rows = np.zeros(int(best >= LEAST_SCORE), DETECTION_DTYPE)
        rows["class_id"] = PERSON
        stamp = result_stamp(number, width=WIDTH, height=HEIGHT, infer_start_ns=at)
        self.gate.inferred(stamp, rows, {PERSON}, best / LEAST_SCORE)
        return bool(len(rows))

    def close(self) -> None:
        for part in (self.gate, self.board, self.reader, self.frames):
            part.close()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that sets the gate's clock."""
    clock = [0]
    monkeypatch.setattr("tridetr.detector.gate.time.monotonic_ns", lambda: clock[0])
    return lambda at: clock.__setitem__(0, at)


def both_ways(
    instance: str, now: Callable[[int], None], model: Model, visits: int
) -> tuple[int, int]:
    """Compare the visits without and with the gate; return its inferences and skips in standby."""
    decided = []
    for gate_s in (0.0, DetectSection().motion_gate_s):
        node = Node(instance, gate_s)
        decided.append(node.decide(model.film, model, now))
        node.close()
    without, gated = decided
    assert [kind for kind, _ in gated] == [kind for kind, _ in without]
    arrivals = [number for kind, number in without if kind is Transition.ARRIVED]
    assert len(arrivals) >= visits
    for (kind, expected), (_, number) in zip(without, gated, strict=True):
        if kind is Transition.ARRIVED:
            assert number - expected <= 0.5 * FPS
    return node.looks, node.skips


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["sensor noise", "low bitrate", "infrared", "slow and dark"])
def test_visits_of_the_footage(
    instance: str, tmp_path: Path, now: Callable[[int], None], kind: str
) -> None:
    model = Model(shared(*ORACLE), footage_with_noise(kind, tmp_path))
    both_ways(instance, now, model, visits=1 if "dark" in kind or kind == "infrared" else 2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_visits_of_the_drawn_street(instance: str, now: Callable[[int], None]) -> None:
    model = Model(model_repository_dir() / "rfdetr_ort" / "1" / "model.onnx", drawn_street())
    both_ways(instance, now, model, visits=2)


@pytest.mark.slow
def test_static_noisy_scene_is_rarely_inferred(
    instance: str, tmp_path: Path, now: Callable[[int], None]
) -> None:
    """An empty room with sensor noise of 3/255 after H.264: the gate learns the noise, then infers every 5 s."""
    rng = np.random.default_rng(9)
    empty = list(decoded(shared(*FOOTAGE), 0, 50))
    there_and_back = [*empty, *empty[-2:0:-1]]
    film = (grainy(there_and_back[n % len(there_and_back)], rng) for n in range(60 * FPS))
    node = Node(instance, DetectSection().motion_gate_s)
    frames = list(encoded(tmp_path / "calm.mp4", film, crf="23", g="25"))
    assert not node.decide(frames, lambda _: 0.0, now)
    node.close()
    assert node.looks <= 10 + 60 / 5 + 6
    assert node.skips >= 110
