"""A training or inference step as a graph of injectors and losses over a write-once state."""
