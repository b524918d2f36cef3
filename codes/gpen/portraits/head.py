"""The bare head: its relief, the skin's colour and texture, ears and neck."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpen.portraits.canvas import Array, Canvas, Light, beside, linear, mix, shade, spline
from gpen.portraits.person import Person, Shape

# Light goes through skin and comes out red: the terminator is warm and soft.
SKIN_WRAP = (0.42, 0.24, 0.18)


@dataclass(frozen=True)
class SkinMarks:
    """What makes one skin differ from another, each a strength from 0 to about 1."""

    freckles: float
    blush: float
    wrinkles: float
    gloss: float
    moles: int

    @classmethod
    def sample(cls, generator: np.random.Generator, person: Person) -> SkinMarks:
        """Draw marks that fit the person."""
        has_freckles = generator.random() < (0.28 if person.melanin < 0.35 else 0.05)
        return cls(
            freckles=float(generator.uniform(0.4, 1.0)) if has_freckles else 0.0,
            blush=float(generator.uniform(0.15, 0.6) + 0.3 * person.femininity * generator.random()),
            wrinkles=float(np.clip(1.25 * person.age - 0.28 + generator.normal(0, 0.08), 0, 1)),
            gloss=float(generator.uniform(0.05, 0.13) + 0.05 * person.melanin),
            moles=int(generator.poisson(0.7)),
        )


def relief(canvas: Canvas, shape: Shape, marks: SkinMarks, smile: float) -> Array:
    """Return the height of the face above the picture plane, face units, H x W."""
    # The head as a whole.
    x, y = canvas.x - np.float32(0.5), canvas.y
    half_width = np.maximum(shape.half_width(y), 0.02)
    across = np.minimum(np.abs(x) / half_width, 1.0)
    # The skull curves away slowly above, the chin fast below.
    down = np.clip(np.where(y < 0.5, (y - 0.50) / 0.5, (y - 0.50) / (shape.chin + 0.012 - 0.50)), -1, 1)
    height = 0.27 * np.sqrt(np.maximum(1 - across**2.3, 0.02)) * np.sqrt(np.maximum(1 - np.abs(down) ** 3.2, 0.03))
    height = canvas.soften(height.astype(np.float32), 0.012)

    # Nose, eye sockets, brows, cheeks, chin and lips.
    height += _nose_relief(canvas, shape)
    pair, bump = canvas.pair, canvas.bump
    height += -0.020 * pair(0.118, 0.470, 0.050, 0.026) + 0.010 * pair(0.125, 0.478, 0.034, 0.018)
    height += 0.010 * shape.brow_ridge * pair(0.115, 0.415, 0.060, 0.018, 0.15)
    height += 0.016 * shape.cheekbones * pair(0.150, 0.575, 0.050, 0.036, -0.5)
    height += 0.012 * smile * pair(0.125, 0.620, 0.036, 0.032)
    height += 0.013 * bump(0.5, 0.862, 0.045, 0.030) - 0.006 * bump(0.5, 0.812, 0.050, 0.012)
    height += 0.014 * bump(0.5, 0.735, 0.070, 0.045) - 0.004 * bump(0.5, 0.686, 0.008, 0.018)
    height -= 0.010 * pair(0.205, 0.36, 0.03, 0.06)
    return height - _folds(canvas, shape, marks, smile)


def _nose_relief(canvas: Canvas, shape: Shape) -> Array:
    """A ridge that widens and rises towards the tip, the tip, and the wings."""
    tip = shape.nose_y
    x = canvas.x - np.float32(0.5)
    along = np.clip((canvas.y - 0.445) / (tip - 0.445), 0, 1.4).astype(np.float32)
    sigma = shape.nose_width * (0.0165 + 0.0125 * along)
    below = np.clip((canvas.y - tip) / 0.030, 0, 4)
    rise = (0.012 + 0.026 * np.minimum(along, 1) ** 1.4) * np.exp(-0.9 * below**2)
    ridge = rise * np.exp(-0.5 * (x / sigma) ** 2) * np.clip((canvas.y - 0.40) / 0.06, 0, 1)
    ball = 0.012 * canvas.bump(0.5, tip + 0.004, 0.023 * shape.nose_width, 0.018)
    wings = 0.015 * canvas.pair(0.046 * shape.nose_width, tip + 0.010, 0.0125, 0.0145)
    return np.float32(shape.nose_height) * (ridge + ball + wings).astype(np.float32)


def _folds(canvas: Canvas, shape: Shape, marks: SkinMarks, smile: float) -> Array:
    """Creases: from nose to mouth when smiling or older, on the forehead, beside and under the eyes."""
    depth = np.zeros_like(canvas.x)
    laugh = 0.35 * smile + 0.65 * marks.wrinkles
    tip = shape.nose_y

    # From nose to mouth, under and beside the eyes.
    for side in (-1, 1):
        curve = [(0.066, tip - 0.006), (0.086, tip + 0.040), (0.098 + 0.012 * smile, 0.725), (0.096, 0.770)]
        fold = spline(beside(curve, side), 16)
        depth += 0.0085 * laugh * canvas.line(fold, 0.012, 0.006)
        bag = spline(beside([(0.072, 0.497), (0.110, 0.519), (0.160, 0.508)], side), 12)
        depth += (0.0012 + 0.0035 * marks.wrinkles) * canvas.line(bag, 0.007, 0.004)
        if marks.wrinkles > 0.2:
            for lift in (-0.016, 0.0, 0.016):
                feet = [(0.5 + side * 0.198, 0.474 + 0.4 * lift), (0.5 + side * 0.226, 0.474 + 1.6 * lift)]
                depth += 0.0026 * marks.wrinkles * canvas.line(np.array(feet), 0.004, 0.002)

    # On the forehead and between the brows.
    if marks.wrinkles > 0.15:
        for row in (0.300, 0.332, 0.364):
            lines = spline([(0.37, row + 0.008), (0.44, row), (0.5, row + 0.004), (0.56, row), (0.63, row + 0.008)], 24)
            depth += 0.0030 * marks.wrinkles * canvas.line(lines, 0.006, 0.003)
        for x in (0.487, 0.513):
            depth += 0.0026 * marks.wrinkles * canvas.line(np.array([(x, 0.40), (x, 0.435)]), 0.005, 0.003)
    return depth


def skin_color(canvas: Canvas, generator: np.random.Generator, person: Person, marks: SkinMarks) -> Array:
    """Return the albedo of the face without features, linear, H x W x 3."""
    # Redder cheeks, nose and chin.
    albedo = canvas.plain(person.skin)
    flush = person.skin * np.array([1.02, 0.66, 0.62], np.float32)
    strength = 0.25 + 0.5 * marks.blush
    albedo = mix(albedo, flush, strength * np.minimum(canvas.pair(0.145, 0.595, 0.052, 0.042), 1))
    albedo = mix(albedo, flush, 0.42 * canvas.bump(0.5, 0.625, 0.036, 0.034))
    albedo = mix(albedo, flush, 0.16 * canvas.bump(0.5, 0.86, 0.06, 0.04))

    # Darker around the eyes.
    shadowed = person.skin * np.array([0.68, 0.58, 0.62], np.float32)
    tired = 0.26 + 0.25 * person.age
    albedo = mix(albedo, shadowed, tired * np.minimum(canvas.pair(0.112, 0.505, 0.040, 0.016), 1))
    albedo = mix(albedo, shadowed, 0.36 * np.minimum(canvas.pair(0.120, 0.448, 0.050, 0.016), 1))

    blotches = 0.030 * canvas.noise(generator, 9) + 0.020 * canvas.noise(generator, 28)
    pores = 0.016 * canvas.noise(generator, 90) + 0.014 * canvas.noise(generator, 200)
    albedo = albedo * (1 + (blotches + pores)[..., None] * np.array([0.7, 1.1, 1.2], np.float32))
    return _spots(canvas, generator, person, marks, albedo)


def _spots(canvas: Canvas, generator: np.random.Generator, person: Person, marks: SkinMarks, albedo: Array) -> Array:
    """Freckles over nose and cheeks, moles anywhere."""
    mask = np.zeros(canvas.shape, np.uint8)

    if marks.freckles:
        count = int(130 * marks.freckles)
        spots = np.stack([generator.normal(0.5, 0.105, count), generator.normal(0.585, 0.045, count)], axis=1)
        for x, y in spots[np.abs(spots[:, 0] - 0.5) < 0.2]:
            length = generator.uniform(0.001, 0.004)
            value = int(generator.uniform(60, 190))
            canvas.strokes(mask, [np.array([(x, y), (x + length, y)])], generator.uniform(0.003, 0.0065), value)

    for _ in range(marks.moles):
        x, y = 0.5 + generator.uniform(-0.17, 0.17), generator.uniform(0.52, 0.84)
        canvas.strokes(mask, [np.array([(x, y), (x + 0.001, y)])], generator.uniform(0.006, 0.010), 220)

    soft = canvas.soften(mask.astype(np.float32) / 255, 0.0012)
    return mix(albedo, person.skin * np.array([0.52, 0.34, 0.26], np.float32), 0.8 * soft)


def nostrils(canvas: Canvas, shape: Shape) -> Array:
    """Return the mask of the dark of the nostrils and the soft line round the wings."""
    y = shape.nose_y + 0.024
    mask = np.zeros_like(canvas.x)
    for side in (-1, 1):
        x = 0.5 + side * 0.027 * shape.nose_width
        mask = np.maximum(mask, canvas.bump(x, y, 0.0120 * shape.nose_width, 0.0046, side * 0.30))
        wing = [(0.060, -0.014), (0.0665, 0.004), (0.060, 0.022), (0.044, 0.029)]
        curve = spline([(0.5 + side * dx * shape.nose_width, shape.nose_y + dy) for dx, dy in wing], 14)
        mask = np.maximum(mask, 0.40 * canvas.line(curve, 0.0055, 0.0032))
    return mask


def occlusion(canvas: Canvas, shape: Shape, light: Light) -> Array:
    """Return how much light reaches the face: soft shadows under brows, nose, lip and on the far side of the nose."""
    pair, bump = canvas.pair, canvas.bump
    tip = shape.nose_y
    dark = 0.26 * np.minimum(pair(0.088, 0.458, 0.030, 0.020), 1)
    dark += 0.20 * bump(0.5, tip + 0.036, 0.046 * shape.nose_width, 0.011)
    dark += 0.26 * bump(0.5, 0.800, 0.048, 0.011)
    away = -light.direction[0]
    dark += 0.24 * abs(away) * bump(0.5 + 0.052 * away, tip - 0.005, 0.024, 0.050, -0.25 * away)
    dark += 0.22 * abs(away) * bump(0.5 + 0.030 * away, 0.49, 0.014, 0.040)
    dark += 0.14 * abs(light.direction[1]) * bump(0.5 + 0.03 * away, tip + 0.045, 0.040, 0.022)
    return np.clip(1 - dark, 0.2, 1).astype(np.float32)


def draw_neck(
    canvas: Canvas, picture: Array, person: Person, shape: Shape, light: Light, generator: np.random.Generator
) -> Array:
    """Paint neck and throat, with the shadow that the head throws on them."""
    width = 0.150 + 0.034 * (1 - person.femininity)
    knots = [(0.96, 0.70), (0.95, 0.84), (1.0, 0.93), (1.28, 1.0), (2.1, 1.06)]
    right = spline([(0.5 + width * factor, y) for factor, y in knots], 24)
    mask = canvas.fill(np.concatenate([right, right[::-1] * (-1, 1) + (1, 0)]), 0.003)

    across = np.minimum(np.abs(canvas.x - 0.5) / (width * 1.06), 1)
    height = 0.16 * np.sqrt(np.maximum(1 - across**2, 0.03)).astype(np.float32)
    for side in (-1, 1):
        # The muscle from behind the ear to the pit of the throat.
        muscle = spline(beside([(width * 0.9, 0.84), (width * 0.55, 0.96), (0.02, 1.08)], side), 12)
        height += 0.012 * canvas.line(muscle, 0.03, 0.014)

    # The head's shadow, and the skin.
    head = canvas.fill(shape.polygon())
    drop = canvas.soften(canvas.shifted(head, -0.06 * light.direction[0], 0.055), 0.022)
    albedo = person.skin * np.array([0.97, 0.92, 0.92], np.float32)
    albedo = albedo * (1 + 0.03 * canvas.noise(generator, 40))[..., None]
    lit = shade(albedo, height, light, 1 - 0.70 * drop, 0.04, 12.0, SKIN_WRAP)
    return mix(picture, lit, mask)


def draw_ears(canvas: Canvas, picture: Array, person: Person, shape: Shape, light: Light) -> Array:
    """Paint both ears; the head is painted over their inner half."""
    mask, dark = np.zeros_like(canvas.x), np.zeros_like(canvas.x)
    edge, out = float(shape.half_width(0.5)) - 0.012, 0.046 * shape.ear_out
    shell = [(0.0, 0.445), (0.55, 0.430), (1.0, 0.460), (1.0, 0.515), (0.72, 0.565), (0.45, 0.610), (0.0, 0.612)]
    fold = [(0.3, 0.458), (0.72, 0.468), (0.74, 0.52), (0.5, 0.56)]
    for side in (-1, 1):
        mask += canvas.fill(spline([(0.5 + side * (edge + out * u), y) for u, y in shell], 40), 0.002)
        dark += canvas.line(spline([(0.5 + side * (edge + out * u), y) for u, y in fold], 16), 0.008, 0.003)
    dark += 0.8 * canvas.pair(edge + 0.30 * out, 0.525, 0.009, 0.020)
    height = 0.05 * canvas.soften(mask, 0.010) - 0.008 * dark
    albedo = canvas.plain(person.skin * (0.4 + 0.6 * linear((255, 200, 196))))
    lit = shade(albedo, height, light, np.clip(0.92 - 0.45 * dark, 0.2, 1), 0.05, 12.0, SKIN_WRAP)
    return mix(picture, lit, mask)
