"""Finding learning rates: short trials of the real training, judged by their curves.

Commands and scripts import this room; it imports reporting, training, runs, options and the rooms below them.
"""
