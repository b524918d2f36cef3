"""Health of a training: what is measured, and the rules that judge it."""
