"""Floor 2: a training step as a graph over a state, and the loops around it."""
