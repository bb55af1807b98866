"""Load the model in argv with ONNX Runtime's CUDA provider: a process of its own, since a broken driver can end it."""

import sys

MISSING = 3  # exit status: this ONNX Runtime was built without CUDA

if __name__ == "__main__":
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        sys.exit(MISSING)
    onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CUDAExecutionProvider"])
    sys.exit(0 if session.get_providers()[0] == "CUDAExecutionProvider" else 4)
