"""Losses; each module registers its own."""
