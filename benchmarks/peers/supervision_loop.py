"""Run the loop of supervision's examples: frame generator, an RF-DETR export, tracker. One process per camera.

    python supervision_loop.py CLIP FPS SETTINGS.json PORT NAME

Pre- and post-processing are those of rfdetr, in numpy and OpenCV. Each line of output has the times when a frame was
due and when it was decided on.
"""

import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import paho.mqtt.client as mqtt
import supervision as sv
from paho.mqtt.enums import CallbackAPIVersion

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def detect(session: onnxruntime.InferenceSession, picture: np.ndarray) -> sv.Detections:
    """Return RF-DETR's detections in a BGR picture."""
    entry = session.get_inputs()[0]
    side = entry.shape[2]
    rgb = cv2.cvtColor(cv2.resize(picture, (side, side)), cv2.COLOR_BGR2RGB)
    tensor = ((rgb.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)[None]
    boxes, logits = (output[0] for output in session.run(["dets", "labels"], {entry.name: tensor}))
    scores = 1 / (1 + np.exp(-logits))
    best = np.argsort(-scores, axis=None)[:300]
    rows, classes = np.unravel_index(best, scores.shape)
    keep = scores[rows, classes] >= 0.5
    rows, classes = rows[keep], classes[keep]
    centre, size = boxes[rows, :2], boxes[rows, 2:]
    corners = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    corners *= np.tile(picture.shape[1::-1], 2)
    return sv.Detections(xyxy=corners, confidence=scores[rows, classes], class_id=classes)


def main() -> None:
    clip, fps, settings, port, name = sys.argv[1], float(sys.argv[2]), *sys.argv[3:6]
    model = json.loads(Path(settings).read_text())
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        model["bare"], options, [(model["provider"], model["options"])]
    )
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", int(port))
    client.loop_start()
    tracker = sv.ByteTrack()
    began, number = time.monotonic(), -1
    while True:
        for picture in sv.get_video_frames_generator(clip):
            number += 1
            due = began + number / fps
            now = time.monotonic()
            if now > due + 1 / fps:  # late: skip to a newer frame
                continue
            time.sleep(max(0.0, due - now))
            found = tracker.update_with_detections(detect(session, picture))
            client.publish(f"cameras/{name}", json.dumps(found.xyxy.tolist()))
            print(due, time.monotonic(), flush=True)


if __name__ == "__main__":
    main()
