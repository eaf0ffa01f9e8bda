"""Floor 0: what every other room stands on; imports nothing of the project above it."""
