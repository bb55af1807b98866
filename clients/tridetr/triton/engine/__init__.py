"""Inference engines of the Python-based backends: ONNX Runtime and TensorRT sessions, and their selection."""
