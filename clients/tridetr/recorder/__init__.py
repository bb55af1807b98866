"""Keeps the best picture and a clip of each visit on disk, where `evidence` is configured."""
