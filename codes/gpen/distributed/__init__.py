"""Processes that train together: who this one is, how they start, and what they exchange."""
