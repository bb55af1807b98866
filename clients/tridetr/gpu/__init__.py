"""The process that owns the GPU: it uploads frames, decodes packets and lends its memory to the inference server."""
