"""A plain script that takes an hour to write: PyAV, ONNX Runtime, paho. One process per camera.

    python plain.py CLIP FPS SETTINGS.json PORT NAME [EVERY]

The graph and the session are the node's. It infers every frame that it can, or each EVERY-th
one. Each line of output is when a frame was due and when it was decided on.
"""

import json
import sys
import time
from pathlib import Path

import av
import onnxruntime
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

clip, fps, settings, port, name = sys.argv[1], float(sys.argv[2]), *sys.argv[3:6]
every = int(sys.argv[6]) if len(sys.argv) > 6 else 1
model = json.loads(Path(settings).read_text())
session_options = onnxruntime.SessionOptions()
session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(
    model["fused"], session_options, [(model["provider"], model["options"])]
)
client = mqtt.Client(CallbackAPIVersion.VERSION2)
client.connect("127.0.0.1", int(port))
client.loop_start()
began, number = time.monotonic(), -1
while True:
    with av.open(clip) as container:
        for frame in container.decode(video=0):
            number += 1
            due = began + number / fps
            now = time.monotonic()
            if number % every:
                time.sleep(max(0.0, due - now))
                continue
            if now > due + 1 / fps:  # late: skip to a newer frame
                continue
            time.sleep(max(0.0, due - now))
            boxes, scores, classes = session.run(
                ["boxes", "scores", "classes"], {"frame": frame.to_ndarray(format="yuv420p")[None]}
            )
            found = boxes[(scores >= 0.5) & (classes == 1)]
            client.publish(f"cameras/{name}", json.dumps(found.tolist()))
            print(due, time.monotonic(), flush=True)
