"""The wire contract: generated FlatBuffers code and tables that are mutated and read in place."""
