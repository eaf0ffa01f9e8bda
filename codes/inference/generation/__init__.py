"""Making images from nothing."""
