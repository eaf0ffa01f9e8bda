"""What can be wrong with an image; one file a kind, each registers itself."""
