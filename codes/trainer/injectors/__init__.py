"""Injectors; each module registers its own."""
