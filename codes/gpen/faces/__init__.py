"""Faces in photographs: detection, alignment, quality, parsing, and pasting back; imported by restoration and above."""
