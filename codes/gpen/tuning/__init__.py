"""Finding learning rates: short trials of the real training, judged by their curves."""
