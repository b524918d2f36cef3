"""Samples that are stored and read together: a random order in which few row groups are in use at a time."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class RowGroups:
    """Which samples lie in one row group of a Parquet file.

    ``datasets`` could shuffle such files itself, but its shuffle buffer is no part of its ``state_dict`` (a resumed
    stream loses the rows in the buffer), and what a worker reads depends on how many workers there are.  The order
    here is a function of the generator alone, so a run can start at any iteration.

    Attributes:
        of_sample: number of each sample's row group, counted from 0; a row group has any number of samples.
        window: how many row groups are shuffled together.
    """

    of_sample: np.ndarray
    window: int

    @property
    def count(self) -> int:
        """Number of row groups."""
        return int(self.of_sample.max(initial=-1)) + 1

    def permute(self, generator: np.random.Generator) -> np.ndarray:
        """Return a random order of all samples in which few row groups are in use at a time.

        The row groups are shuffled and taken by windows of ``window``; within a window, all samples are shuffled.
        """
        window_of_group = generator.permutation(self.count) // self.window
        order = generator.permutation(len(self.of_sample))
        return order[np.argsort(window_of_group[self.of_sample[order]], kind='stable')]


def coarser(first: RowGroups | None, second: RowGroups | None) -> RowGroups | None:
    """Return the larger row groups: in their order, both sides of a pair read few row groups at a time."""
    if first is None or second is None:
        return first or second
    return first if first.count <= second.count else second
