"""The synthetic camera's scenes, and the training of the bundled model on them. Only used by the demo."""
