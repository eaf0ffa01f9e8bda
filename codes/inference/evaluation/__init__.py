"""Measuring results without training."""
