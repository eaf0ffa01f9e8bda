"""What a training run says: console, JSON lines, TensorBoard, Weights & Biases."""
