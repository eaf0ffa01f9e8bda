"""One file an evaluator; each registers itself."""
