"""Make, verify, measure and install models: from an RF-DETR checkpoint to a contract model."""
