"""Decoding on an NVIDIA GPU: pictures that are born in device memory, and the CPU where that does not work."""
