"""Models: floor 1, beside the data and below the trainer."""
