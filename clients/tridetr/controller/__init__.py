"""Alarm decisions for each camera, published over MQTT: at least once, in order, with idempotent event IDs."""
