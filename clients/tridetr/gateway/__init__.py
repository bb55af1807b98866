"""The web gateway: viewer, WebSocket and HTTP streams, snapshots, health probes and metrics."""
