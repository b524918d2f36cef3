"""What ``scripts/benchmark.py`` measures, one module for each of its sub-commands."""
