"""A run that makes images from nothing: its options, its checks, its files."""
