"""The measurements of ``scripts/benchmark.py``: a module for each sub-command, and what they share."""
