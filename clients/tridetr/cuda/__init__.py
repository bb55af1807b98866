"""Frames in GPU memory: device memory beside the frame ring, its way to Triton, and when there is none."""
