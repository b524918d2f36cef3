"""A portrait and its degraded version, as data sets of portraits and the page's examples have them."""

import numpy as np

from gpen.data.degradations import build_degradation
from gpen.portraits.render import render_portrait
from gpen.utils.seeds import derive_generator

Task = tuple[str, int]
"""Split and index."""

SPLIT_IDS = {'train': 0, 'val': 1}


def render_pair(seed: int, size: int, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Return a portrait and its degraded version (size x size x 3, float32, RGB, [-1, 1])."""
    split, index = task
    gt = render_portrait(derive_generator(seed, 'portrait', SPLIT_IDS[split], index), size)
    degrade = build_degradation({'type': 'simple'})
    return gt, degrade(gt, derive_generator(seed, 'degrade', SPLIT_IDS[split], index))
