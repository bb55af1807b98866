"""What tests share: real servers on free ports, whole nodes, waiting on conditions."""
