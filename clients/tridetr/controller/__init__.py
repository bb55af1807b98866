"""Decides when a camera is alarmed and publishes it over MQTT: at least once, in order, with idempotent event ids."""
