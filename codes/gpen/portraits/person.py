"""Who is portrayed: age, build and colouring, which the whole face agrees on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpen.portraits.canvas import Array, linear, spline, symmetric

# sRGB, from the fairest to the darkest.
_SKIN = np.array(
    [(243, 214, 197), (234, 194, 168), (217, 170, 138), (186, 134, 100), (142, 96, 69), (98, 65, 49)], np.float32
)
_HAIR = {
    'black': (27, 22, 21),
    'dark brown': (52, 36, 28),
    'brown': (88, 60, 41),
    'chestnut': (120, 72, 44),
    'red': (158, 78, 40),
    'dark blonde': (160, 124, 82),
    'blonde': (208, 172, 116),
    'platinum': (226, 208, 176),
    'grey': (146, 144, 143),
    'white': (212, 210, 206),
    'teal': (42, 120, 128),
    'pink': (206, 110, 140),
    'violet': (104, 70, 140),
}
_DYES = ('teal', 'pink', 'violet')
_FAIR_HAIR = ('black', 'dark brown', 'brown', 'chestnut', 'red', 'dark blonde', 'blonde', 'platinum')
_FAIR_ODDS = (0.08, 0.20, 0.22, 0.13, 0.09, 0.13, 0.11, 0.04)
_IRIS = ((62, 38, 25), (92, 58, 34), (124, 94, 52), (98, 122, 84), (96, 136, 168), (128, 144, 156))
_IRIS_FAIR = (0.12, 0.24, 0.16, 0.14, 0.24, 0.10)
_IRIS_DARK = (0.62, 0.33, 0.05, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Person:
    """The traits that several drawings need.

    Attributes:
        femininity, age, melanin: 0 to 1; age 0 is about 18 years, 1 about 80.
        skin, hair, body_hair, iris: linear colours; body hair is that of brows and beard, which nobody dyes.
        is_hair_grey: whether the hair has lost its colour.
    """

    femininity: float
    age: float
    melanin: float
    skin: Array
    hair: Array
    body_hair: Array
    iris: Array
    is_hair_grey: bool

    @classmethod
    def sample(cls, generator: np.random.Generator) -> Person:
        """Draw a person."""
        # Age and build.
        center = 0.2 if generator.random() < 0.5 else 0.8
        femininity = float(np.clip(generator.normal(center, 0.13), 0, 1))
        age = float(generator.random() ** 1.35)
        melanin = float(np.clip(generator.beta(0.95, 1.25), 0, 1))

        # Colours.
        steps = np.arange(len(_SKIN))
        skin = np.array([np.interp(melanin * (len(_SKIN) - 1), steps, _SKIN[:, c]) for c in range(3)])
        undertone = generator.normal(0, 0.02)
        skin = skin * (1 + np.array([0.4 * undertone, -0.3 * undertone, -1.2 * undertone]))
        is_grey = age > 0.55 and generator.random() < (age - 0.4) * 1.5
        hair, body_hair = _hair_colors(generator, melanin, is_grey)
        odds = _IRIS_DARK if melanin > 0.5 else _IRIS_FAIR
        iris = linear(_IRIS[generator.choice(len(_IRIS), p=odds)]) * np.float32(generator.uniform(0.8, 1.2))

        return cls(
            femininity=femininity,
            age=age,
            melanin=melanin,
            skin=linear(np.clip(skin, 0, 250)),
            hair=hair,
            body_hair=body_hair,
            iris=iris,
            is_hair_grey=is_grey,
        )


def _hair_colors(generator: np.random.Generator, melanin: float, is_grey: bool) -> tuple[Array, Array]:
    """Return the colour of the hair and of brows and beard."""
    if is_grey:
        name = generator.choice(['grey', 'white'])
    elif generator.random() < 0.04:
        name = generator.choice(_DYES)
    elif melanin > 0.55:
        name = generator.choice(['black', 'dark brown', 'brown'], p=[0.68, 0.24, 0.08])
    else:
        name = generator.choice(_FAIR_HAIR, p=_FAIR_ODDS)

    natural = 'dark brown' if str(name) in _DYES else str(name)
    scale = generator.uniform(0.9, 1.1)
    return linear(np.array(_HAIR[str(name)]) * scale), linear(np.array(_HAIR[natural]) * scale)


def _round_ends(knots: list[tuple[float, float]]) -> Array:
    """Return the curve through ``knots`` that meets its mirror image without a corner at both ends."""
    steps = 10  # points between two knots
    mirrored = [(-knots[1][0], knots[1][1]), *knots, (-knots[-2][0], knots[-2][1])]
    return spline(mirrored, steps * (len(mirrored) - 1) + 1)[steps:-steps]


@dataclass(frozen=True)
class Shape:
    """The bones: the outline of the skull and where its features sit.

    Attributes:
        outline: the right half of the outline from the top to the chin, N x 2: distance from the middle, y.
        top, chin: y of the top of the skull and of the chin.
        hairline: y of the hairline in the middle of the forehead.
        ear_out: how far the ears stand out.
        nose_width, nose_length, nose_height, brow_ridge, cheekbones: factors around 1.
    """

    outline: Array
    top: float
    chin: float
    hairline: float
    ear_out: float
    nose_width: float
    nose_length: float
    nose_height: float
    brow_ridge: float
    cheekbones: float

    @classmethod
    def sample(cls, generator: np.random.Generator, person: Person) -> Shape:
        """Draw a head shape that fits the person."""
        masculine = 1 - person.femininity
        width = generator.normal(0.985 + 0.03 * masculine, 0.028)
        jaw = width * generator.normal(0.93 + 0.10 * masculine, 0.05)
        chin_width = generator.normal(0.92 + 0.22 * masculine, 0.12)
        chin = generator.normal(0.912 + 0.02 * masculine, 0.010)
        top = generator.normal(0.095, 0.008)
        forehead = width * generator.normal(1.0, 0.02)

        # The right half of the skull, from the top to the chin.
        knots = [
            (0.0, top),
            (0.088 * forehead, top + 0.014),
            (0.162 * forehead, top + 0.062),
            (0.210 * forehead, top + 0.140),
            (0.232 * forehead, 0.335),
            (0.236 * width, 0.43),
            (0.236 * width, 0.52),
            (0.225 * width, 0.60),
            (0.207 * jaw, 0.68),
            (0.180 * jaw, 0.755),
            (0.139 * jaw, 0.822),
            (0.094 * (jaw + chin_width) / 2, chin - 0.043),
            (0.050 * chin_width, chin - 0.012),
            (0.0, chin),
        ]

        broad = np.clip(person.melanin * 1.6 - 0.7, 0, 1) * generator.random()
        return cls(
            outline=_round_ends(knots),
            top=float(top),
            chin=float(chin),
            hairline=float(generator.normal(0.245 - 0.015 * person.femininity, 0.014)),
            ear_out=float(generator.uniform(0.6, 1.25)),
            nose_width=float(generator.normal(0.94 + 0.10 * masculine + 0.22 * broad, 0.08)),
            nose_length=float(generator.normal(1.0 + 0.01 * masculine, 0.02)),
            nose_height=float(generator.normal(0.95 + 0.15 * masculine - 0.15 * broad, 0.14)),
            brow_ridge=float(max(0.2, generator.normal(0.5 + 0.8 * masculine, 0.2))),
            cheekbones=float(generator.normal(1.0, 0.25)),
        )

    @property
    def nose_y(self) -> float:
        """Where the tip of the nose is."""
        return 0.475 + 0.151 * self.nose_length

    def half_width(self, y: Array | float) -> Array:
        """Return the distance from the middle to the outline at the height ``y`` (0 above and below the head)."""
        width = np.interp(y, self.outline[:, 1], self.outline[:, 0], left=0.0, right=0.0)
        return np.asarray(width, np.float32)

    def polygon(self) -> Array:
        """Return the closed outline of the head, N x 2."""
        return symmetric(self.outline)
