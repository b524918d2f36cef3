"""Published degradations under their names; each takes and gives an image of the same size, clipped to [-1, 1].

They change the LQ image alone.  A change of both images, such as greying that the network is not to undo, belongs to
the ``augment`` option of ``DegradedFaceDataset``.
"""
