"""The hair styles: each lays sheets of hair on a head."""

from collections.abc import Callable

import numpy as np

from gpen.portraits.canvas import Array, beside, spline
from gpen.portraits.hair import Curls, HairStyle, Sheet, between
from gpen.portraits.person import Person, Shape

Style = Callable[[np.random.Generator, Shape, Person], HairStyle]


def hairline(shape: Shape, recede: float = 0.0) -> Array:
    """Return the hairline from the left ear over the forehead to the right ear, N x 2."""
    y = shape.hairline
    right = [
        (0.0, y),
        (0.075, y + 0.003 - 0.05 * recede),
        (0.135, y + 0.016 - 0.07 * recede),
        (0.172, y + 0.055 - 0.04 * recede),
        (0.196, y + 0.115),
        (0.206, 0.405),
        (0.222, 0.445),
        (0.226, 0.500),
    ]
    left = [(-x, y) for x, y in right[:0:-1]]
    return spline([(0.5 + x, y) for x, y in left + right], 41)


def dome(shape: Shape, side: float, top: float, pinched: bool = False) -> Array:
    """Return the outline of the hair from the left ear over the top to the right ear, N x 2.

    ``side`` and ``top`` are how far the hair stands off the skull there, face units; ``pinched`` hair lies close to
    the head at its lower ends.
    """
    points = shape.outline[shape.outline[:, 1] <= 0.50]
    rise = np.clip((0.45 - points[:, 1]) / (0.45 - shape.top), 0, 1)
    if pinched:
        side = side * np.clip((0.51 - points[:, 1]) / 0.14, 0, 1) ** 0.7  # type: ignore[assignment]
    x = points[:, 0] + side * np.sin(np.pi / 2 * np.clip(points[:, 0] / 0.2, 0, 1))
    y = points[:, 1] - top * rise**1.5
    right = np.stack([0.5 + x, y], axis=1)
    left = np.stack([0.5 - x, y], axis=1)[:0:-1]
    return np.concatenate([left, right]).astype(np.float32)


def _resample(rail: Array, share: Array) -> Array:
    """Return points at shares of the length of a polyline."""
    steps = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(rail, axis=0), axis=1))])
    return np.stack([np.interp(share * steps[-1], steps, rail[:, axis]) for axis in (0, 1)], 1).astype(np.float32)


def _swept_sheet(
    generator: np.random.Generator, shape: Shape, side: float, top: float, recede: float = 0.0, **options: float
) -> Sheet:
    """Hair combed from the hairline back, possibly to one side, over the whole top."""
    share = np.linspace(0, 1, 61)
    lean = generator.uniform(-0.16, 0.16)
    # At the sides hair runs down and back, not straight out.
    moved = share + lean * np.sin(np.pi * share) - 0.06 * np.sin(2 * np.pi * share)
    roots = _resample(hairline(shape, recede), share)
    tips = _resample(dome(shape, side, top, pinched=True), np.clip(moved, 0, 1))
    tips = tips + generator.normal(0, 0.003, tips.shape).astype(np.float32)
    middle = 0.5 * roots + 0.5 * tips
    middle = middle + 0.10 * (middle - np.array([0.5, 0.42], np.float32))
    return Sheet([roots, middle, tips], strands=520, clumps=26, soft_roots=True, **options)


def short_swept(generator: np.random.Generator, shape: Shape, person: Person) -> HairStyle:
    """Short, brushed up or back."""
    top = generator.uniform(0.020, 0.075)
    recede = float(np.clip(person.age * 1.2 - 0.3, 0, 1)) * (1 - person.femininity)
    wave = generator.uniform(0, 0.006)
    return HairStyle(front=[_swept_sheet(generator, shape, generator.uniform(0.010, 0.028), top, recede, wave=wave)])


def _parted(
    shape: Shape, part: float, side: float, top: float, curtains: tuple[Array, Array] | None, **options: float
) -> tuple[list[Sheet], Array]:
    """Return two sheets that fall from a parting at ``part`` (distance from the middle), and the parting.

    They end at the ears or follow ``curtains``: their inner and outer edge (N x 2: distance from the middle, y).
    """
    sheets = []
    line, crown = hairline(shape), dome(shape, side, top, pinched=curtains is None)
    share = np.linspace(0, 1, 9)
    for sign in (-1, 1):
        along = np.linspace(0.5 + part * 1.4, 0.5 + sign * 0.5, 7)
        face_side, away_side = _resample(line, along), _resample(crown, along)
        if curtains is not None:
            inner, outer = (np.array([0.5, 0], np.float32) + edge * (sign, 1) for edge in curtains)
            face_side = spline(np.concatenate([face_side[:5], inner]), 40)
            away_side = spline(np.concatenate([away_side[:5], outer]), 40)
        rails = between(_resample(face_side, share), _resample(away_side, share))
        sheets.append(Sheet(rails, strands=330, **options))  # type: ignore[arg-type]
    return sheets, np.stack([_resample(rail, np.array([0.5 + part * 1.4]))[0] for rail in (line, crown)])


def short_parted(generator: np.random.Generator, shape: Shape, _person: Person) -> HairStyle:
    """Short with a side parting."""
    part = float(generator.choice([-1, 1]) * generator.uniform(0.05, 0.10))
    side, top = generator.uniform(0.014, 0.028), generator.uniform(0.025, 0.055)
    sheets, parting = _parted(shape, part, side, top, None, spread=0.004)
    return HairStyle(front=sheets, parting=parting)


def _curtains(generator: np.random.Generator, length: float, fullness: float) -> tuple[Array, Array]:
    """Return the inner and the outer edge of hair that hangs beside the face down to ``length``."""
    inner_x = generator.uniform(0.204, 0.226)
    y = np.linspace(0.44, length, 5)
    t = np.linspace(0, 1, 5)
    inner = np.stack([inner_x + 0.012 * np.sin(np.pi * t) - 0.030 * t, y], axis=1)
    flare = generator.uniform(-0.02, 0.07) * t**1.5
    outer = np.stack([0.252 + fullness * np.sqrt(np.minimum(3 * t, 1)) + flare, y + 0.01 * t], axis=1)
    return inner, outer


def _back(shape: Shape, side: float, top: float, outer: Array) -> Sheet:
    """The hair behind head and neck, as wide as the curtains."""
    low = float(outer[-1, 1])
    crown = _resample(dome(shape, side, top), np.linspace(0, 1, 9))
    bottom = np.stack([np.linspace(0.5 - outer[-1, 0], 0.5 + outer[-1, 0], 9), np.full(9, low)], axis=1)
    half = np.stack([np.linspace(0.5 - outer[2, 0], 0.5 + outer[2, 0], 9), np.full(9, outer[2, 1])], axis=1)
    return Sheet([crown, half.astype(np.float32), bottom.astype(np.float32)], strands=260, tone=0.55)


def long_hair(generator: np.random.Generator, shape: Shape, _person: Person) -> HairStyle:
    """Long, straight or wavy, parted in the middle or at the side."""
    side, top = generator.uniform(0.022, 0.05), generator.uniform(0.025, 0.06)
    inner, outer = _curtains(generator, generator.uniform(0.98, 1.12), generator.uniform(0.025, 0.075))
    wave = float(generator.choice([0.0, 0.004, 0.012, 0.018]))
    part = float(generator.choice([0.0, -0.06, 0.06, 0.09]))
    options = {'wave': wave, 'cycles': generator.uniform(2, 4)}
    front, parting = _parted(shape, part, side, top, (inner, outer), **options)
    if generator.random() < 0.35:
        front.append(_fringe(generator, shape, generator.uniform(0.36, 0.395)))
    curls = Curls(generator.uniform(0.014, 0.024), 900) if wave > 0.015 and generator.random() < 0.5 else None
    return HairStyle(back=[_back(shape, side, top, outer)], front=front, curls=curls, parting=parting)


def bob(generator: np.random.Generator, shape: Shape, _person: Person) -> HairStyle:
    """Chin length, with or without a fringe."""
    side, top = generator.uniform(0.024, 0.045), generator.uniform(0.025, 0.05)
    inner, outer = _curtains(generator, generator.uniform(0.74, 0.86), generator.uniform(0.03, 0.06))
    outer[-1, 0] -= generator.uniform(0.02, 0.06)
    part = float(generator.uniform(-0.08, 0.08))
    front, parting = _parted(shape, part, side, top, (inner, outer), wave=float(generator.choice([0.0, 0.006])))
    if generator.random() < 0.55:
        front.append(_fringe(generator, shape, generator.uniform(0.365, 0.40)))
    return HairStyle(back=[_back(shape, side, top, outer)], front=front, parting=parting)


def _fringe(generator: np.random.Generator, shape: Shape, low: float) -> Sheet:
    """Hair that falls over the forehead down to ``low``."""
    top = shape.top - 0.02
    lean = generator.uniform(-0.03, 0.03)
    arch = generator.uniform(-0.004, 0.014)
    tips = spline([(0.288, low + arch), (0.40, low), (0.5, low - 0.004), (0.60, low), (0.712, low + arch)], 31)
    tips = tips + np.stack([np.full(31, lean), generator.normal(0, 0.009, 31)], axis=1)
    crown = spline([(0.40, top + 0.012), (0.5, top), (0.60, top + 0.012)], 24)
    middle = spline([(0.295, 0.235), (0.40, 0.190), (0.5, 0.182), (0.60, 0.190), (0.705, 0.235)], 24)
    return Sheet([crown, middle, tips.astype(np.float32)], strands=300, clumps=18, spread=0.005)


def fringe_short(generator: np.random.Generator, shape: Shape, _person: Person) -> HairStyle:
    """Short all round with a fringe."""
    side, top = generator.uniform(0.010, 0.022), generator.uniform(0.018, 0.040)
    sheets, _ = _parted(shape, generator.uniform(-0.04, 0.04), side, top, None, spread=0.004)
    return HairStyle(front=[*sheets, _fringe(generator, shape, generator.uniform(0.300, 0.365))])


def tied(generator: np.random.Generator, shape: Shape, _person: Person) -> HairStyle:
    """Combed back into a bun on top or a tail that hangs over one shoulder."""
    front = [_swept_sheet(generator, shape, 0.008, generator.uniform(0.012, 0.03), 0.0, spread=0.003)]
    if generator.random() < 0.5:
        x, y, radius = 0.5 + generator.normal(0, 0.03), shape.top - 0.055, generator.uniform(0.075, 0.105)
        turn = np.linspace(np.pi, 2 * np.pi, 12)
        upper = np.stack([x + radius * np.cos(turn), y + 0.8 * radius * np.sin(turn)], 1).astype(np.float32)
        lower = upper * (1, -1) + (0, 2 * y)
        bun = Sheet([lower, 0.5 * (upper + lower) + (0, -0.01), upper], strands=140, tone=0.85)
        return HairStyle(back=[bun], front=front)

    sign = generator.choice([-1, 1])
    inner = beside([(0.10, 0.55), (0.16, 0.75), (0.17, 0.92), (0.13, 1.1)], sign)
    outer = beside([(0.20, 0.50), (0.27, 0.72), (0.29, 0.92), (0.25, 1.1)], sign)
    return HairStyle(back=[Sheet(between(inner, outer), strands=120, tone=0.75, wave=0.004)], front=front)


def curly(generator: np.random.Generator, shape: Shape, person: Person) -> HairStyle:
    """Curls, from short to shoulder length."""
    side, top = generator.uniform(0.04, 0.085), generator.uniform(0.05, 0.10)
    curls = Curls(generator.uniform(0.012, 0.021), 1500)
    if generator.random() < 1 - person.femininity:
        return HairStyle(front=[_swept_sheet(generator, shape, 0.6 * side, top, 0.0, spread=0.012)], curls=curls)
    inner, outer = _curtains(generator, generator.uniform(0.74, 1.08), side + 0.02)
    outer[:, 0] = np.minimum(outer[:, 0], 0.262 + side) - 0.05 * np.linspace(0, 1, len(outer)) ** 4
    part = float(generator.uniform(-0.06, 0.06))
    front, _ = _parted(shape, part, side, top, (inner, outer), wave=0.014, spread=0.012)
    return HairStyle(back=[_back(shape, side, top, outer)], front=front, curls=curls)


def afro(generator: np.random.Generator, shape: Shape, person: Person) -> HairStyle:
    """A round crown of tight curls."""
    volume = generator.uniform(0.03, 0.08 + 0.05 * person.femininity)
    sheet = _swept_sheet(generator, shape, volume, 1.15 * volume, 0.0, spread=0.008)
    return HairStyle(front=[sheet], curls=Curls(generator.uniform(0.006, 0.011), 2600))


def shaved(generator: np.random.Generator, shape: Shape, person: Person) -> HairStyle:
    """Shaved to a few millimetres."""
    recede = float(np.clip(person.age - 0.2, 0, 1))
    scalp = np.concatenate([hairline(shape, recede), dome(shape, 0.004, 0.004)[::-1]])
    return HairStyle(stubble=scalp, stubble_density=float(generator.uniform(0.55, 0.97)))


def bald(generator: np.random.Generator, _shape: Shape, person: Person) -> HairStyle:
    """No hair on top; sometimes a wreath at the sides."""
    if generator.random() < 0.35 + 0.4 * person.age:
        sides = []
        for sign in (-1, 1):
            inner = beside([(0.196, 0.31), (0.208, 0.39), (0.224, 0.50)], sign)
            outer = beside([(0.225, 0.27), (0.262, 0.37), (0.256, 0.50)], sign)
            sides.append(Sheet(between(inner, outer), strands=110, clumps=5, spread=0.006))
        return HairStyle(front=sides)
    return HairStyle()


_MASCULINE: tuple[tuple[Style, float], ...] = (
    (short_swept, 0.25), (short_parted, 0.20), (fringe_short, 0.13), (shaved, 0.12), (bald, 0.09),
    (curly, 0.09), (afro, 0.04), (long_hair, 0.05), (tied, 0.03),
)  # fmt: skip
_FEMININE: tuple[tuple[Style, float], ...] = (
    (long_hair, 0.38), (bob, 0.20), (tied, 0.16), (curly, 0.14), (fringe_short, 0.05), (short_parted, 0.04),
    (afro, 0.03),
)  # fmt: skip


def sample_style(generator: np.random.Generator, shape: Shape, person: Person) -> HairStyle:
    """Draw a hair style that fits the person."""
    styles = _FEMININE if generator.random() < person.femininity else _MASCULINE
    weights = np.array([weight for _, weight in styles])
    if person.melanin > 0.6:
        weights = weights * [3.0 if style in (afro, curly, shaved, tied) else 0.7 for style, _ in styles]
    style = styles[generator.choice(len(styles), p=weights / weights.sum())][0]
    return style(generator, shape, person)
