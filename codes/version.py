"""The version, in one place; checkpoints and experiment folders record it."""

__version__ = "0.1.0"
