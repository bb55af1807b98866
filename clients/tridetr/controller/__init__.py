"""Decides from the detections when a camera is alarmed, and tells it over MQTT, exactly once."""
