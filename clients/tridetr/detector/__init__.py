"""The detector: run inference on each camera's newest frame and publish the detections."""
