"""One file a loss or a few of a kind; each registers itself."""
