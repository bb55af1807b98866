"""``tridetr up``: start the processes of a node, restart them when they fail, and clean up at the end."""
