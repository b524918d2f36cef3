"""Published degradations under their names; each takes and gives an image of the same size, clipped to [-1, 1].

They change the LQ image alone, apart from what :func:`gpen.data.degradations.compose.changes_both` marks: the greying
of ``gpen``.  Other changes of both images belong to the ``augment`` option of ``DegradedFaceDataset``.
"""
