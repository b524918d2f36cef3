"""Reports of runs: curves, tables and pictures in one HTML file that loads nothing else."""
