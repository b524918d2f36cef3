"""The experiment folder of a run: its lock, log, records and checkpoints."""
