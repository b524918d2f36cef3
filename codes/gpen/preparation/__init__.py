"""From photographs, or faces that are aligned already, to a paired data set: :func:`gpen.preparation.run.prepare`."""
