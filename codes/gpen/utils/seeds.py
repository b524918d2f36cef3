"""Seeds: each random number comes from a generator that is seeded by its purpose.

Nothing depends on the number of workers or of interruptions, and no random state is ever saved.
"""

import hashlib

import numpy as np


def derive_seed(manual_seed: int, purpose: str, *counters: int) -> int:
    """Return a 63-bit seed that depends on all arguments and on nothing else.

    Args:
        manual_seed: the run's seed.
        purpose: such as ``'order'``, ``'augment'``, ``'step'``.
        counters: epoch or iteration, index of the sample, and so on.
    """
    text = ':'.join([str(manual_seed), purpose, *(str(int(counter)) for counter in counters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], 'little') >> 1


def derive_generator(manual_seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Return a NumPy generator seeded by :func:`derive_seed`."""
    return np.random.Generator(np.random.PCG64(derive_seed(manual_seed, purpose, *counters)))
