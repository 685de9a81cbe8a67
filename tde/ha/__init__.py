"""High availability: what a cluster manager asks of a node, and how it is told about tde."""
