"""What the pixels of an image show that strengths of corruptions may not account for."""
