"""From photographs, or aligned faces, to a paired data set: :func:`gpen.preparation.prepare.prepare`.

Commands and scripts import this room; it imports data, metrics, faces, options and the rooms below them.
"""
