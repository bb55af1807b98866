"""NVIDIA Triton: starting and watching the server, its models, and the client of the detector."""
