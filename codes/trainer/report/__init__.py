"""The page that compares images, and what it is made of."""
