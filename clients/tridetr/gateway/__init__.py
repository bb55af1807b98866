"""The web gateway: viewer, WebSocket streams, snapshots, health."""
