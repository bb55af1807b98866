"""Run Roboflow's inference: its pipeline with custom logic over all cameras, in one process.

    python inference_pipeline.py CLIP FPS SETTINGS.json PORT NAME...

The clips play in real time; the pipeline drops frames when it is late, as with streams. Detection is the same as in
supervision_loop.py. Each line of output has the times when a frame was due and when it was decided on.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("MODELS_CACHE_AUTH_ENABLED", "False")

import cv2
import onnxruntime
import paho.mqtt.client as mqtt
from inference import InferencePipeline
from inference.core.interfaces.camera.entities import SourceProperties, VideoFrameProducer
from inference.core.interfaces.camera.video_source import (
    BufferConsumptionStrategy,
    BufferFillingStrategy,
)
from paho.mqtt.enums import CallbackAPIVersion
from supervision_loop import detect


class Camera(VideoFrameProducer):  # type: ignore[misc]  # untyped
    """A clip that plays in a loop, in real time."""

    def __init__(self, clip: str, fps: float) -> None:
        self._clip, self._fps = clip, fps
        self._capture = cv2.VideoCapture(clip)
        self._began, self._number = time.monotonic(), -1

    def grab(self) -> bool:
        self._number += 1
        time.sleep(max(0.0, self._began + self._number / self._fps - time.monotonic()))
        if not self._capture.grab():
            self._capture = cv2.VideoCapture(self._clip)
            return bool(self._capture.grab())
        return True

    def retrieve(self) -> Any:
        return self._capture.retrieve()

    def release(self) -> None:
        self._capture.release()

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return bool(self._capture.isOpened())

    def discover_source_properties(self) -> SourceProperties:
        return SourceProperties(
            width=int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            height=int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            total_frames=-1, is_file=False, fps=self._fps,
        )  # fmt: skip


def main() -> None:
    clip, fps, settings, port, *names = sys.argv[1:]
    model = json.loads(Path(settings).read_text())
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        model["bare"], options, [(model["provider"], model["options"])]
    )
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", int(port))
    client.loop_start()
    to_monotonic = time.monotonic() - time.time()

    def decide(frames: list[Any]) -> list[Any]:
        return [detect(session, frame.image) for frame in frames]

    def publish(found: Any, frames: Any) -> None:
        if not isinstance(frames, list):  # a single camera's frame is not in a list
            found, frames = [found], [frames]
        for one, frame in zip(found, frames, strict=True):
            if frame is None:
                continue
            client.publish(f"cameras/{names[frame.source_id or 0]}", json.dumps(one.xyxy.tolist()))
            print(frame.frame_timestamp.timestamp() + to_monotonic, time.monotonic(), flush=True)

    pipeline = InferencePipeline.init_with_custom_logic(
        video_reference=[lambda: Camera(clip, float(fps)) for _ in names],
        on_video_frame=decide,
        on_prediction=publish,
        source_buffer_filling_strategy=BufferFillingStrategy.DROP_OLDEST,
        source_buffer_consumption_strategy=BufferConsumptionStrategy.EAGER,
        batch_collection_timeout=0.05,
    )
    pipeline.start()
    pipeline.join()


if __name__ == "__main__":
    main()
