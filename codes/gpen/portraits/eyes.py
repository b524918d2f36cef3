"""Eyes and eyebrows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpen.portraits.canvas import Array, Canvas, Light, beside, linear, mix, ribbon, spline
from gpen.portraits.person import Person

EYE_X, EYE_Y = 0.125, 0.475
IRIS_RADIUS = 0.0255


@dataclass(frozen=True)
class Eyes:
    """The look of both eyes and brows; lengths in face units.

    Attributes:
        half_width: half the distance between the corners.
        upper, lower: how far the lids stand above and below the line between the corners.
        tilt: how much higher the outer corner is than the inner one.
        crease: distance of the fold above the upper lid; 0 for a single lid.
        gaze: shift of both irises.
        lashes: 0 to 1.
        shadow: colour of make-up, or None.
        brow_y, brow_arch, brow_width, brow_density: the eyebrows.
    """

    half_width: float
    upper: float
    lower: float
    tilt: float
    crease: float
    gaze: tuple[float, float]
    lashes: float
    shadow: Array | None
    brow_y: float
    brow_arch: float
    brow_width: float
    brow_density: float

    @classmethod
    def sample(cls, generator: np.random.Generator, person: Person, smile: float) -> Eyes:
        """Draw eyes that fit the person; a smile narrows them from below."""
        feminine = person.femininity
        made_up = feminine > 0.5 and generator.random() < 0.4
        palette = ((120, 74, 84), (92, 80, 120), (120, 90, 62), (64, 96, 110), (90, 60, 52))
        return cls(
            half_width=float(generator.normal(0.0615, 0.0025)),
            upper=float(generator.normal(0.0265 + 0.003 * feminine - 0.004 * person.age, 0.0024)),
            lower=float(generator.normal(0.0155, 0.0016) - 0.0045 * smile),
            tilt=float(generator.normal(0.004 + 0.003 * feminine - 0.006 * person.age, 0.004)),
            crease=float(generator.uniform(0.009, 0.016)) if generator.random() < 0.82 else 0.0,
            gaze=(float(generator.normal(0, 0.0045)), float(generator.normal(0, 0.002))),
            lashes=float(np.clip(0.25 + 0.6 * feminine + generator.normal(0, 0.1), 0.15, 1)),
            shadow=linear(palette[generator.integers(len(palette))]) if made_up else None,
            brow_y=float(generator.normal(0.407 + 0.006 * (1 - feminine), 0.006)),
            brow_arch=float(np.clip(generator.normal(0.010 + 0.008 * feminine, 0.005), 0.002, 0.026)),
            brow_width=float(np.clip(generator.normal(0.026 - 0.010 * feminine, 0.004), 0.010, 0.036)),
            brow_density=float(np.clip(generator.normal(0.85, 0.15), 0.45, 1)),
        )


def lid_curves(eyes: Eyes, side: int) -> tuple[Array, Array]:
    """Return the upper and the lower lid (28 x 2 each) from the inner to the outer corner; ``side`` is -1 or 1."""
    u = np.linspace(-1, 1, 28)
    base = EYE_Y + 0.004 - eyes.tilt * u
    # The upper lid is highest a little towards the nose, the lower one lowest towards the outside.
    arch = (1 - np.abs(u) ** 2.3) ** 0.85
    upper = base - eyes.upper * arch * (1 - 0.10 * u)
    lower = base + eyes.lower * (1 - np.abs(u) ** 2.0) * (1 + 0.22 * u)
    x = 0.5 + side * (EYE_X + eyes.half_width * u)
    return np.stack([x, upper], 1).astype(np.float32), np.stack([x, lower], 1).astype(np.float32)


def paint_lids(canvas: Canvas, albedo: Array, person: Person, eyes: Eyes) -> Array:
    """Colour the skin around the eyes: lid fold and make-up, before the face is lit."""
    dark = person.skin * np.array([0.45, 0.34, 0.32], np.float32)
    for side in (-1, 1):
        upper, lower = lid_curves(eyes, side)
        if eyes.shadow is not None:
            band = ribbon(upper - (0, 0.010), np.linspace(0.016, 0.034, len(upper)))
            color = 0.5 * eyes.shadow + 0.5 * person.skin * eyes.shadow / eyes.shadow.max()
            albedo = mix(albedo, color, 0.62 * canvas.fill(band, 0.007))
        if eyes.crease:
            fold = upper[2:-1] - (0, eyes.crease)
            albedo = mix(albedo, dark, 0.62 * canvas.fill(ribbon(fold, 0.0055 * _taper(len(fold))), 0.0018))
        albedo = mix(albedo, dark, 0.30 * canvas.fill(ribbon(lower - (0, -0.006), 0.007 * _taper(len(lower))), 0.003))
    return albedo


def draw_eyes(
    canvas: Canvas, picture: Array, person: Person, eyes: Eyes, light: Light, generator: np.random.Generator
) -> Array:
    """Paint both eyeballs, the lashes and the brows over the lit face."""
    picture = picture.copy()
    for side in (-1, 1):
        upper, lower = lid_curves(eyes, side)
        part, window = canvas.around(0.5 + side * EYE_X, EYE_Y, 0.12)
        mask = part.band(upper, lower, 0.0008)
        eye = mix(picture[window], _eyeball(part, person, eyes, light, side, upper), mask)
        picture[window] = _lashes(part, eye, person, eyes, side, generator)
    return picture


def _eyeball(canvas: Canvas, person: Person, eyes: Eyes, light: Light, side: int, upper: Array) -> Array:
    """White, iris, pupil, the lid's shadow and the lights' reflections."""
    # The white, reddish at the inner corner.
    x0, y0 = 0.5 + side * EYE_X, EYE_Y
    white = linear((232 - 14 * person.age, 224 - 16 * person.age, 216 - 20 * person.age))
    bulge = canvas.bump(x0, y0, 0.045, 0.030)
    ball = white * (0.48 + 0.52 * bulge)[..., None]
    pink = canvas.bump(x0 - side * eyes.half_width, y0 + 0.004, 0.010, 0.009)
    ball = mix(ball, linear((206, 128, 116)), 0.85 * pink)

    # Iris and pupil, in radii of the iris.
    iris_x, iris_y = x0 + eyes.gaze[0], y0 - 0.0025 + eyes.gaze[1]
    distance = np.hypot(canvas.x - iris_x, canvas.y - iris_y) / IRIS_RADIUS
    edge = 1.6 / (canvas.pixels * IRIS_RADIUS)
    disc = _step(1 - distance, edge)
    angle = np.arctan2(canvas.y - iris_y, canvas.x - iris_x)
    fibres = 0.5 + 0.25 * np.sin(17 * angle + 3 * distance) + 0.25 * np.sin(29 * angle - 5 * distance + 1)
    glow = np.clip((canvas.y - iris_y) / IRIS_RADIUS, -1, 1)
    tone = (0.72 + 0.34 * fibres + 0.40 * glow) * (1 - 0.72 * _step(distance - 0.84, 0.10))
    iris = person.iris * np.maximum(tone, 0.1)[..., None] * 1.25
    ball = mix(ball, iris, disc)
    ball = mix(ball, 0.006, _step(0.43 - distance, edge))

    # Light, the lid's shadow, and two reflections.
    shadow = canvas.fill(ribbon(upper - (0, -0.002), np.full(len(upper), 0.016)), 0.005)
    brightness = 0.80 * light.key * max(light.direction[2], 0.4) + 0.62 * light.ambient
    ball = ball * brightness * (1 - 0.68 * shadow)[..., None]
    spot_x = iris_x + 0.010 * np.clip(1.4 * light.direction[0], -0.8, 0.8)
    spot = np.hypot((canvas.x - spot_x) / 0.0056, (canvas.y - iris_y + 0.0085) / 0.0058)
    ball = mix(ball, 1.0, 0.96 * _step(1 - spot, 0.25))
    return mix(ball, 0.8, 0.28 * canvas.bump(2 * iris_x - spot_x, iris_y + 0.010, 0.0045, 0.0035))


def _lashes(
    canvas: Canvas, picture: Array, person: Person, eyes: Eyes, side: int, generator: np.random.Generator
) -> Array:
    """Paint the dark edges of both lids, and the lashes of the upper one."""
    upper, lower = lid_curves(eyes, side)
    color = 0.35 * person.body_hair * (0.3 if person.is_hair_grey else 0.6) + linear((24, 16, 14)) * 0.7
    weight = np.linspace(0.45, 1.0, len(upper)) * _taper(len(upper), 0.35)
    picture = mix(picture, color, 0.92 * canvas.fill(ribbon(upper, (0.0048 + 0.0050 * eyes.lashes) * weight), 0.0008))
    picture = mix(picture, color, (0.28 + 0.3 * eyes.lashes) * canvas.fill(ribbon(lower, 0.0040 * weight), 0.0012))

    hairs = np.zeros(canvas.shape, np.uint8)
    lines = []
    for u in np.linspace(0.12, 0.99, 22):
        root = upper[int(u * (len(upper) - 1))]
        length = (0.006 + 0.012 * eyes.lashes) * (0.5 + 0.6 * u) * generator.uniform(0.8, 1.15)
        lean = side * (u - 0.35) * 1.1
        tip = root + length * np.array([lean, -0.8])
        bend = root + 0.6 * length * np.array([1.1 * lean, -0.45])
        lines.append(spline([root, bend, tip], 6))

    canvas.strokes(hairs, np.stack(lines), 0.0022, 255)
    return mix(picture, color, (0.35 + 0.5 * eyes.lashes) * hairs.astype(np.float32) / 255)


def draw_brows(canvas: Canvas, picture: Array, person: Person, eyes: Eyes, generator: np.random.Generator) -> Array:
    """Paint the eyebrows over the lit face."""
    picture = picture.copy()
    for side in (-1, 1):
        part, window = canvas.around(0.5 + side * EYE_X, eyes.brow_y, 0.12)
        picture[window] = _brow(part, picture[window], person, eyes, side, generator)
    return picture


def _brow(
    canvas: Canvas, picture: Array, person: Person, eyes: Eyes, side: int, generator: np.random.Generator
) -> Array:
    """Paint one brow hair by hair over a soft ground."""
    y, arch = eyes.brow_y, eyes.brow_arch
    curve = [(0.047, y + 0.010), (0.092, y - 0.35 * arch), (0.143, y - arch), (0.192, y + 0.008)]
    middle = spline(beside(curve, side), 30)
    width = eyes.brow_width * np.interp(np.linspace(0, 1, 30), [0, 0.12, 0.55, 1], [0.6, 1.0, 0.85, 0.15])
    ground = canvas.fill(ribbon(middle, width * 0.86), 0.0040)

    count = int(150 * eyes.brow_density)
    t = generator.random(count) ** 0.9
    index = np.minimum((t * 29).astype(int), 28)
    roots = middle[index] + np.stack([np.zeros(count), width[index] * generator.uniform(-0.42, 0.50, count)], 1)
    along = middle[index + 1] - middle[index]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    along[:, 1] += np.interp(t, [0, 0.25, 1], [-0.7, -0.25, 0.15]) * generator.uniform(0.6, 1.3, count)
    lengths = 0.017 * generator.uniform(0.7, 1.2, count) * (1 - 0.4 * t)
    lines = np.stack([roots, roots + lengths[:, None] * along], axis=1)
    hairs = np.zeros(canvas.shape, np.uint8)
    for number, value in enumerate((90, 130, 170, 220)):
        canvas.strokes(hairs, lines[number::4], 0.0028, value)

    color = person.body_hair * 0.42 + person.skin * 0.02
    if not person.is_hair_grey and person.body_hair.max() > 0.3:
        color = color * 0.55 + linear((90, 62, 44)) * 0.3
    alpha = np.maximum(0.86 * eyes.brow_density * ground, 0.85 * hairs.astype(np.float32) / 255)
    shading = 0.5 + 0.5 * np.clip(picture.mean(axis=2) / max(float(person.skin.mean()), 1e-3), 0, 1.2)
    return mix(picture, color * shading[..., None], alpha)


def _taper(count: int, end: float = 0.15) -> Array:
    """Stroke weights that fall to ``end`` at both ends."""
    t = np.linspace(-1, 1, count)
    return (end + (1 - end) * (1 - t**4)).astype(np.float32)


def _step(value: Array, softness: float) -> Array:
    """0 below 0, 1 above ``softness``, smooth between."""
    t = np.clip(value / softness, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)
