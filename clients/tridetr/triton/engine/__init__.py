"""ONNX Runtime inside the Python-based backend: which provider and precision, sessions, report."""
