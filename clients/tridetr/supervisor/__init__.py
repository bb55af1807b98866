"""``tridetr up``: start every process of a node, keep them alive, show what they do, leave nothing behind."""
