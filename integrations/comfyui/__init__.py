"""ComfyUI finds the nodes of a custom node package by these two names."""

from .nodes import TesseraLoader, TesseraRestore, TesseraStrength

NODE_CLASS_MAPPINGS = {
    "TesseraLoader": TesseraLoader,
    "TesseraStrength": TesseraStrength,
    "TesseraRestore": TesseraRestore,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "TesseraLoader": "Load Tessera Weights",
    "TesseraStrength": "Tessera Strength",
    "TesseraRestore": "Tessera Restore",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
