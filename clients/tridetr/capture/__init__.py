"""Capture: from a camera's decoded planes into the frame ring, one process per camera."""
