"""tridetr: edge camera detection with NVIDIA Triton, RF-DETR and shared memory."""

__version__ = "0.1.0"
