"""``tridetr doctor``: look at everything that a node needs and say the remedy for what is missing."""
