"""Scoring of what was trained, against sharp images."""
