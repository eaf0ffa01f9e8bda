"""Console, errors, files and randomness; imports nothing else of the project."""
