"""Validation and scoring of generators against GT images; imported by training and the commands."""
