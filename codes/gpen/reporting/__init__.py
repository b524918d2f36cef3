"""Pages about training: curves, tables and pictures in one HTML file that needs nothing else."""
