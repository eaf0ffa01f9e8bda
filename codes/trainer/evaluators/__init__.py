"""Evaluators; each module registers its own."""
