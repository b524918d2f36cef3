"""Use of what was trained: scoring against sharp images, restoring."""
