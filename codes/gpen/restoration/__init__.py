"""Use of a trained generator: aligned faces, whole photographs, folders, export; imported by evaluation and above."""
