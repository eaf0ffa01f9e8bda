"""Trained networks for other systems: plain graphs, ONNX files, model cards, the Hugging Face Hub."""
