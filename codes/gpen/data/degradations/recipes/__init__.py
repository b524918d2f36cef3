"""Published degradations under their names; each takes and gives an image of the same size, clipped to [-1, 1].

They change the blurry image alone.  What shall change both images, such as greying that is not to be undone, belongs to
the ``augment`` option of ``DegradedFaceDataset``.
"""
