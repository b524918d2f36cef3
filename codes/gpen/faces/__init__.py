"""Faces in photographs: found, aligned, judged."""
