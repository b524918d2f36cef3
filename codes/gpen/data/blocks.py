"""Blocks of samples that are stored and read together: a random order that is kind to them, and a memory of a few."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

Key = TypeVar('Key', bound=Hashable)
Value = TypeVar('Value')


@dataclass(frozen=True, eq=False)
class Blocks:
    """Which samples lie in one block, such as a row group of a Parquet file.

    Attributes:
        of_sample: the number of each sample's block, counted from 0; any block may have any number of samples.
        window: how many blocks are shuffled together.
    """

    of_sample: np.ndarray
    window: int

    @property
    def count(self) -> int:
        """Number of blocks."""
        return int(self.of_sample.max(initial=-1)) + 1

    def permute(self, generator: np.random.Generator) -> np.ndarray:
        """Return a random order of all samples in which few blocks are in use at a time.

        The blocks are shuffled and taken by windows of ``window`` blocks; within a window, all samples are shuffled.
        """
        window_of_block = generator.permutation(self.count) // self.window
        order = generator.permutation(len(self.of_sample))
        return order[np.argsort(window_of_block[self.of_sample[order]], kind='stable')]


def coarser(first: Blocks | None, second: Blocks | None) -> Blocks | None:
    """Return those of the larger blocks: in their order, both sides of a pair read few blocks at a time."""
    if first is None or second is None:
        return first or second
    return first if first.count <= second.count else second


class RecentlyUsed(Generic[Key, Value]):
    """Keeps the values that were used last, up to ``capacity`` in weight but at least one; threads may share it."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._weight = 0
        self._items: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key, load: Callable[[], Value], weight: int = 1) -> Value:
        """Return the value of ``key``; ``load`` makes it where it is not kept (one at a time, whatever the threads)."""
        with self._lock:
            if key not in self._items:
                self._items[key] = (load(), weight)
                self._weight += weight
            self._items.move_to_end(key)
            while self._weight > self.capacity and len(self._items) > 1:
                self._weight -= self._items.popitem(last=False)[1][1]
            return self._items[key][0]

    def forget(self, key: Key) -> None:
        """Let go of ``key``'s value, if there is one."""
        with self._lock:
            if key in self._items:
                self._weight -= self._items.pop(key)[1]
