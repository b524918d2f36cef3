"""The mouth: closed, smiling or open."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpen.portraits.canvas import Array, Canvas, Light, linear, mix, ribbon
from gpen.portraits.person import Person

_LIPSTICKS = ((176, 40, 52), (150, 34, 60), (200, 84, 92), (128, 40, 48), (206, 96, 110))


@dataclass(frozen=True)
class Mouth:
    """Lengths in face units.

    Attributes:
        y: the line between the lips.
        half_width: from the middle to a corner.
        smile: -0.3 (serious) to 1 (beaming).
        gap: how far the lips are apart in the middle.
        upper, lower: thickness of the lips.
        bow: depth of the dip in the upper lip.
        color: of the lips, linear.
        gloss: of the lips.
    """

    y: float
    half_width: float
    smile: float
    gap: float
    upper: float
    lower: float
    bow: float
    color: Array
    gloss: float

    @classmethod
    def sample(cls, generator: np.random.Generator, person: Person) -> Mouth:
        """Draw a mouth; about half of the people smile, a third show teeth."""
        mood = generator.random()
        smile, gap = generator.normal(0.14, 0.12), 0.0
        if mood > 0.72:
            smile, gap = generator.uniform(0.65, 1.0), generator.uniform(0.026, 0.044)
        elif mood > 0.45:
            smile = generator.uniform(0.35, 0.75)
        elif mood > 0.36:
            gap = generator.uniform(0.010, 0.034)

        full = generator.normal(1 + 0.22 * person.femininity + 0.3 * person.melanin - 0.3 * person.age, 0.12)
        natural = person.skin * np.array([0.86, 0.50, 0.50], np.float32)
        lipstick = person.femininity > 0.5 and generator.random() < 0.45
        stick = linear(_LIPSTICKS[generator.integers(len(_LIPSTICKS))])

        return cls(
            y=float(generator.normal(0.737, 0.006) - 0.004 * smile),
            half_width=float(generator.normal(0.086, 0.005) + 0.017 * smile),
            smile=float(smile),
            gap=float(gap),
            upper=float(0.0185 * full * (1 - 0.22 * max(smile, 0))),
            lower=float(0.0265 * full * (1 - 0.16 * max(smile, 0))),
            bow=float(generator.uniform(0.003, 0.007)),
            color=0.82 * stick + 0.18 * natural if lipstick else natural,
            gloss=float(generator.uniform(0.25, 0.5) if lipstick else generator.uniform(0.08, 0.2)),
        )


def _curves(mouth: Mouth) -> tuple[Array, Array, Array, Array]:
    """Return outer upper edge, inner upper edge, inner lower edge and outer lower edge, each 41 x 2."""
    u = np.linspace(-1, 1, 41)
    x = 0.5 + mouth.half_width * u
    line = mouth.y - 0.017 * mouth.smile * (np.abs(u) ** 1.8 - 0.35)
    open_shape = np.maximum(1 - np.abs(u / 0.90) ** 2.2, 0)
    inner_upper = line - 0.38 * mouth.gap * open_shape + 0.0022 * np.exp(-((u / 0.22) ** 2)) * (mouth.gap == 0)
    inner_lower = line + 0.62 * mouth.gap * open_shape + 0.0022 * np.exp(-((u / 0.22) ** 2)) * (mouth.gap == 0)
    dip = mouth.bow * (np.exp(-((u / 0.11) ** 2)) - 0.55 * np.exp(-(((np.abs(u) - 0.24) / 0.16) ** 2)))
    outer_upper = inner_upper - mouth.upper * (1 - np.abs(u) ** 1.5) ** 0.9 + dip
    outer_lower = inner_lower + mouth.lower * (1 - np.abs(u) ** 2.4) ** 0.9
    return tuple(np.stack([x, y], 1).astype(np.float32) for y in (outer_upper, inner_upper, inner_lower, outer_lower))  # type: ignore[return-value]


def lips_relief(canvas: Canvas, mouth: Mouth) -> Array:
    """Return the height that the lips add to the face."""
    outer_upper, inner_upper, inner_lower, outer_lower = _curves(mouth)
    upper = canvas.band(outer_upper, inner_upper, 0.0050)
    lower = canvas.band(inner_lower, outer_lower, 0.0065)
    corners = canvas.pair(mouth.half_width + 0.004, float(inner_upper[0, 1]), 0.010, 0.010)
    return 0.008 * upper + 0.012 * lower - 0.006 * corners


def paint_lips(
    canvas: Canvas, albedo: Array, person: Person, mouth: Mouth, generator: np.random.Generator
) -> tuple[Array, Array]:
    """Colour the lips on the unlit skin; return the albedo and the extra gloss (H x W)."""
    outer_upper, inner_upper, inner_lower, outer_lower = _curves(mouth)
    upper = canvas.band(outer_upper, inner_upper, 0.0022)
    lower = canvas.band(inner_lower, outer_lower, 0.0026)
    grooves = 1 + 0.07 * canvas.noise(generator, 110, 14)
    albedo = mix(albedo, mouth.color * 0.80 * grooves[..., None], 0.92 * upper)
    albedo = mix(albedo, mouth.color * 1.06 * grooves[..., None], 0.88 * lower)
    corner_y = float(inner_upper[0, 1])
    dark = person.skin * np.array([0.4, 0.26, 0.24], np.float32)
    albedo = mix(albedo, dark, 0.5 * canvas.pair(mouth.half_width, corner_y, 0.008, 0.006))
    return albedo, mouth.gloss * np.maximum(lower, 0.4 * upper)


def draw_opening(canvas: Canvas, picture: Array, mouth: Mouth, light: Light) -> Array:
    """Paint what lies between the lips over the lit face: the dark line, or teeth and the inside."""
    _, inner_upper, inner_lower, _ = _curves(mouth)
    middle = (inner_upper + inner_lower) / 2
    dark = mouth.color * np.array([0.20, 0.10, 0.10], np.float32)
    weight = np.interp(np.linspace(-1, 1, len(middle)), [-1, -0.7, 0, 0.7, 1], [0.35, 0.9, 1.0, 0.9, 0.35])
    if mouth.gap < 0.004:
        return mix(picture, dark, 0.86 * canvas.fill(ribbon(middle, 0.0055 * weight), 0.0010))

    # Tongue, teeth, and the shadow of the upper lip.
    opening = canvas.band(inner_upper, inner_lower, 0.0010)
    inside = canvas.plain(dark)
    inside = mix(inside, linear((168, 76, 74)) * 0.6, 0.8 * canvas.bump(0.5, mouth.y + 0.72 * mouth.gap, 0.036, 0.008))
    brightness = 0.74 * light.key * max(light.direction[2], 0.45) + 0.5 * light.ambient
    inside = mix(inside, linear((238, 230, 216)) * brightness, 1.0 * _teeth(canvas, mouth, inner_upper))
    lip_shadow = canvas.fill(ribbon(inner_upper, np.full(len(inner_upper), 0.008)), 0.003)
    inside = inside * (1 - 0.55 * lip_shadow)[..., None]

    picture = mix(picture, inside, opening)
    return mix(picture, dark, 0.5 * canvas.fill(ribbon(inner_upper, 0.003 * weight), 0.0010))


def _teeth(canvas: Canvas, mouth: Mouth, inner_upper: Array) -> Array:
    """Return the mask of the upper row, fading towards the corners, with faint lines between the teeth."""
    length = min(0.90 * mouth.gap, 0.030) if mouth.smile > 0.4 else 0.45 * mouth.gap
    reach = 0.80
    u = np.linspace(-1, 1, len(inner_upper))
    inside = np.abs(u) < reach
    top = inner_upper[inside] - (0, 0.004)
    bottom = inner_upper[inside] + np.stack([0 * u[inside], length * (1 - 0.45 * (u[inside] / reach) ** 2)], 1)
    row = canvas.band(top, bottom, 0.0012)

    gaps = np.zeros(canvas.shape, np.uint8)
    for x in (0.0, 0.0165, 0.0300, 0.0425, 0.053):
        for side in (-1, 1):
            place = 0.5 + side * x
            canvas.strokes(gaps, [np.array([(place, mouth.y - 0.03), (place, mouth.y + 0.03)])], 0.0015, 255)

    fade = np.clip(1.08 - (np.abs(canvas.x - 0.5) / (reach * mouth.half_width)) ** 3, 0.15, 1)
    return row * fade * (1 - 0.22 * canvas.soften(gaps.astype(np.float32) / 255, 0.0008))
