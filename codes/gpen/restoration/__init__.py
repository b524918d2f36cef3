"""Use of a trained generator: aligned faces, whole photographs, folders of them."""
