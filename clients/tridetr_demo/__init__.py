"""The drawn world of the synthetic camera, and the training of the bundled model on it. Not part of the product."""
