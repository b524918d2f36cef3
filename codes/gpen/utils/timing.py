"""How long training steps take."""

import time


class StepTimer:
    """Seconds per step since the last reading, without the time spent on anything else."""

    def __init__(self) -> None:
        self._created = self._read_at = self._start = time.perf_counter()
        self._elapsed = 0.0
        self._steps = 0

    def step(self) -> None:
        """Count one step, which ends now."""
        now = time.perf_counter()
        self._elapsed += now - self._start
        self._start = now
        self._steps += 1

    def pause(self) -> None:
        """Leave the time since the last step out."""
        self._start = time.perf_counter()

    def read(self) -> float:
        """Return the mean seconds per step, and start anew."""
        mean = self._elapsed / max(self._steps, 1)
        self._elapsed, self._steps = 0.0, 0
        return mean

    def read_total(self) -> float:
        """Return the seconds since the last call of this method, steps or not."""
        now = time.perf_counter()
        seconds, self._read_at = now - self._read_at, now
        return seconds

    @property
    def seconds_so_far(self) -> float:
        """Seconds since the timer was made."""
        return time.perf_counter() - self._created
