"""Learning rates to try, as numbers of three digits, and as people write them."""

from dataclasses import dataclass


def round_rate(rate: float) -> float:
    """Return a rate with three significant digits."""
    return float(f'{rate:.2e}')


def format_rate(rate: float) -> str:
    """Return a rate as people write it: ``1e-3``, ``1.44e-4``."""
    digits, _, exponent = f'{rate:.2e}'.partition('e')
    return f'{digits.rstrip("0").rstrip(".")}e{int(exponent)}'


@dataclass(frozen=True)
class Trial:
    """Learning rates to try.

    Attributes:
        rate: of the generator.
        ratio: the discriminator's rate divided by the generator's; None where there is no discriminator.
    """

    rate: float
    ratio: float | None

    @property
    def rate_d(self) -> float | None:
        """The discriminator's learning rate."""
        return None if self.ratio is None else round_rate(self.rate * self.ratio)

    @property
    def name(self) -> str:
        """The name of its run."""
        end = '' if self.rate_d is None else f'_d{format_rate(self.rate_d)}'
        return f'g{format_rate(self.rate)}{end}'

    @property
    def label(self) -> str:
        """Its rates in words."""
        end = '' if self.rate_d is None else f', D {format_rate(self.rate_d)}'
        return f'G {format_rate(self.rate)}{end}'
