"""Helpers without knowledge of the product: device and CPUs, files, seeds, words for messages.

All rooms may import it; it imports errors only.
"""
