"""The gpu process: uploads frames, decodes packets, and shares its GPU memory with the inference server."""
