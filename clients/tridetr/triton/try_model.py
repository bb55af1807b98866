"""Load the model in argv as the server does, and run it once: a process of its own, since a broken file can end it."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

LOADING_S = 60
_FRAME = (1, 720, 640)  # 640x480


def main(model: str, provider: str, precision: str) -> None:
    """Exit with the fault as the last line, unless the model answers; SIGALRM ends it after `LOADING_S` seconds."""
    signal.alarm(LOADING_S)  # also if the caller was killed
    os.nice(10)  # a node may be running
    with suppress(OSError):  # /proc is read-only
        Path("/proc/self/oom_score_adj").write_text("1000")  # rather than a process of the node
    try:
        import numpy as np
        import onnxruntime

        from tridetr.triton.answers import Prediction, check_content
        from tridetr.triton.engine.choice import choose, cpu_flags
        from tridetr.triton.engine.session import Engine

        choice = choose(
            provider,
            precision,
            available=onnxruntime.get_available_providers(),
            flags=cpu_flags(),
            gpu=False,
            ours=True,
        )
        boxes, scores, classes = Engine(Path(model), choice).run(np.zeros(_FRAME, np.uint8))
        check_content(Prediction(boxes[0], scores[0], classes[0]))
    except Exception as error:  # ONNX Runtime's own exception types
        sys.exit(" ".join(str(error).split()))


if __name__ == "__main__":
    main(*sys.argv[1:])
