"""Models; they know nothing of data."""
