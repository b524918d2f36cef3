"""Health of a training: the numbers that validation measures for it, and the rules that judge the course of a run."""
