"""Frames in GPU memory: access to CUDA, pinned frame rings, and the device ring that is shared with Triton."""
