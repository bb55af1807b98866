"""From an RF-DETR checkpoint to a verified entry of the model repository."""
