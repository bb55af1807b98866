"""``tridetr doctor``: check a node's requirements and show how to fix what is missing."""
