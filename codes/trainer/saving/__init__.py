"""Checkpoints of a run: what is written, kept and taken up again."""
