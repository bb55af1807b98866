"""Test helpers: real servers on free ports, whole nodes, waiting for conditions."""
