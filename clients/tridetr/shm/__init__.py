"""Shared memory: rings of slots with leases, and wake-ups (see ``layout.py`` for the protocol)."""
