"""Tessera: diffusion restoration of photographs, trained on tiles and run on images of any size."""
