"""The training loop: steps, optimisers, averages, saving and resuming, logs."""
