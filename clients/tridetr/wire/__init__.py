"""The wire contract: FlatBuffers tables that are mutated and read in place."""
