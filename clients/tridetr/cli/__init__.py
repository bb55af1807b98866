"""The ``tridetr`` command."""
