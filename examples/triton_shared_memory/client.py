"""Run the node's model on a camera's newest frame, where it is in shared memory."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import tritonclient.grpc as triton

from tridetr.config import load_config
from tridetr.config.examples import DEMO
from tridetr.shm.frames import FrameReader
from tridetr.triton.endpoint import endpoint_of

TIMEOUT_S = 10.0


def main() -> None:
    """Print what the model finds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("camera")
    parser.add_argument("-c", "--config", type=Path, default=Path("tridetr.yaml"))
    parser.add_argument("--demo", action="store_true", help="ask the running demo")
    asked = parser.parse_args()
    config = load_config(DEMO if asked.demo else asked.config)
    endpoint = endpoint_of(config)
    if endpoint is None:
        sys.exit(f"no Triton in {config.run_dir}: is the node running?")
    client = triton.InferenceServerClient(endpoint.address)
    headers = dict(endpoint.metadata())  # the key of the restricted calls
    with FrameReader(config.instance, asked.camera, None) as frames:
        deadline_s = time.monotonic() + TIMEOUT_S
        while (frame := frames.lease_newest()) is None:
            if time.monotonic() > deadline_s:
                sys.exit(f"no frame of camera {asked.camera} within {TIMEOUT_S:g} s")
            time.sleep(0.01)
        with frame:
            region = frame.region.shm_name
            # The node's detector has registered the ring, and Triton maps each file under one name only
            known = client.get_system_shared_memory_status(headers=headers).regions
            if region not in known:
                client.register_system_shared_memory(
                    region, f"/{region}", frame.region.size_bytes, headers=headers
                )
            try:
                picture = triton.InferInput(
                    "frame", [1, frame.height * 3 // 2, frame.width], "UINT8"
                )
                picture.set_shared_memory(region, frame.pixels_nbytes, frame.pixels_offset)
                # No client timeout: after one, the server may still be reading the frame
                answer = client.infer(config.model.name, [picture])
            finally:
                if region not in known:
                    client.unregister_system_shared_memory(region, headers=headers)
            number = frame.stamp.frame_number
    boxes, scores = answer.as_numpy("boxes")[0], answer.as_numpy("scores")[0]
    classes = answer.as_numpy("classes")[0]
    print(f"frame {number}: {int((scores > 0).sum())} candidates, best first")
    for box, score, class_id in list(zip(boxes, scores, classes, strict=True))[:5]:
        print(f"  class {class_id}, score {score:.2f}, box {[round(float(x)) for x in box]}")


if __name__ == "__main__":
    main()
