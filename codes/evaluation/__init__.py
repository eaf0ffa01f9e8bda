"""Measuring: metrics of images, and the evaluators of a recipe."""
