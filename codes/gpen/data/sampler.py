"""Which samples make up which batch: a function of the seed and the iteration alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from torch.utils.data import Sampler

from gpen.data.row_groups import RowGroups
from gpen.utils.seeds import derive_generator


@dataclass(eq=False)
class InfiniteBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields the batches of iterations ``start_iteration``, ``start_iteration + 1``, ... as lists of (epoch, index).

    Every epoch (counted from 0) is a permutation of its own.  Its last batch is topped up from a further permutation,
    so that all batches are full, also where there are fewer samples than a batch takes.  Each rank takes its slice
    of the common batch of ``batch_size * world_size`` samples.

    Args:
        length: number of samples in the data set, at least 1.
        batch_size: samples per rank and iteration.
        manual_seed: the run's seed.
        start_iteration: the first iteration to yield, counted from 0; any, without replaying those before it.
        end_iteration: the iteration to stop before; None: there is no end.
        shuffle: permute; otherwise every epoch has the order of the data set.
        rank: this process's rank.
        world_size: number of ranks.
        row_groups: which samples are stored together; the permutations then go through the row groups by windows of
            a few. None: each sample may follow any other.
    """

    length: int
    batch_size: int
    manual_seed: int
    start_iteration: int = 0
    end_iteration: int | None = None
    shuffle: bool = True
    rank: int = 0
    world_size: int = 1
    row_groups: RowGroups | None = None

    def __post_init__(self) -> None:
        if min(self.length, self.batch_size) < 1 or not 0 <= self.rank < self.world_size or self.start_iteration < 0:
            raise ValueError(f'no batches from {self}')
        self._permutations: dict[tuple[int, ...], np.ndarray] = {}

    @property
    def iterations_per_epoch(self) -> int:
        """Number of iterations in which every sample is seen at least once."""
        return -(-self.length // (self.batch_size * self.world_size))

    def batch_of_iteration(self, iteration: int) -> list[tuple[int, int]]:
        """Return this rank's batch of one iteration (counted from 0): ``batch_size`` pairs (epoch, index)."""
        epoch, step = divmod(iteration, self.iterations_per_epoch)
        first = (step * self.world_size + self.rank) * self.batch_size
        return [(epoch, self._index_at(epoch, position)) for position in range(first, first + self.batch_size)]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for iteration in count(self.start_iteration):
            if self.end_iteration is not None and iteration >= self.end_iteration:
                return
            yield self.batch_of_iteration(iteration)

    def __len__(self) -> int:
        if self.end_iteration is None:
            raise TypeError('a sampler without an end has no length')
        return max(0, self.end_iteration - self.start_iteration)

    def _index_at(self, epoch: int, position: int) -> int:
        """Return the sample at ``position`` of an epoch's permutations, laid one after the other."""
        repeat, offset = divmod(position, self.length)
        if not self.shuffle:
            return offset
        counters = (epoch, repeat) if repeat else (epoch,)
        if counters not in self._permutations:
            # Keep those of the current epoch only.
            self._permutations = {key: value for key, value in self._permutations.items() if key[0] == epoch}
            generator = derive_generator(self.manual_seed, 'order', *counters)
            self._permutations[counters] = (
                generator.permutation(self.length) if self.row_groups is None else self.row_groups.permute(generator)
            )
        return int(self._permutations[counters][offset])
