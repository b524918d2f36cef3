"""Background and clothes."""

from collections.abc import Callable

import cv2
import numpy as np

from gpen.portraits.canvas import Array, Canvas, Light, linear, mix, ribbon, shade, spline, symmetric
from gpen.portraits.person import Person

_MUTED = (
    (196, 200, 204), (150, 162, 172), (104, 118, 130), (190, 176, 160), (120, 110, 104), (226, 222, 214), (70, 78, 88),
)  # fmt: skip
_VIVID = (
    (92, 150, 170), (214, 140, 96), (120, 160, 110), (170, 110, 140), (226, 186, 110), (80, 100, 160), (150, 60, 60),
)  # fmt: skip
_GREENS = ((60, 92, 50), (92, 124, 60), (130, 152, 84), (40, 62, 44), (168, 178, 110))
_CLOTHES = (
    (32, 36, 46), (224, 222, 218), (60, 76, 110), (120, 36, 40), (64, 92, 76), (170, 150, 120), (196, 120, 70),
    (90, 84, 92), (140, 160, 184), (200, 170, 60), (110, 70, 110), (30, 90, 96),
)  # fmt: skip


Palette = tuple[tuple[int, int, int], ...]


def _pick(generator: np.random.Generator, palette: Palette) -> Array:
    color = np.array(palette[generator.integers(len(palette))], np.float32)
    return linear(np.clip(color * generator.uniform(0.85, 1.12) + generator.normal(0, 6, 3), 4, 250))


def _gradient(canvas: Canvas, generator: np.random.Generator, *palettes: Palette) -> Array:
    """Return two colours, one of each palette, that blend across the picture, with a soft glow behind the head."""
    first, second = (_pick(generator, palette) for palette in palettes)
    angle = generator.uniform(0, 2 * np.pi)
    along = (canvas.screen_x - 0.5) * np.float32(np.cos(angle)) + (canvas.screen_y - 0.5) * np.float32(np.sin(angle))
    picture = first + (second - first) * np.clip(along + 0.5, 0, 1)[..., None]
    center = generator.uniform((0.2, 0.2), (0.8, 0.7))
    distance = (canvas.screen_x - center[0]) ** 2 + (canvas.screen_y - center[1]) ** 2
    return picture * (0.78 + 0.5 * np.exp(-distance / generator.uniform(0.08, 0.3)))[..., None].astype(np.float32)


def _studio(canvas: Canvas, generator: np.random.Generator) -> Array:
    palette = _MUTED if generator.random() < 0.65 else _VIVID
    return _gradient(canvas, generator, palette, palette)


def _mottled(canvas: Canvas, generator: np.random.Generator) -> Array:
    """A painted backdrop."""
    picture = _gradient(canvas, generator, _MUTED, _MUTED)
    cloud = 0.14 * canvas.noise(generator, 5) + 0.09 * canvas.noise(generator, 13) + 0.03 * canvas.noise(generator, 70)
    return picture * np.clip(1 + cloud, 0.4, 1.6)[..., None]


def _lights(canvas: Canvas, generator: np.random.Generator) -> Array:
    """Lights far out of focus."""
    dark = generator.random() < 0.6
    picture = _gradient(canvas, generator, _VIVID, _MUTED) * (0.22 if dark else 0.8)
    for _ in range(generator.integers(14, 34)):
        x, y, radius = generator.uniform(0, 1), generator.uniform(0, 0.9), generator.uniform(0.02, 0.075)
        distance = np.hypot(canvas.screen_x - x, canvas.screen_y - y) / radius
        disc = np.clip((1 - distance) * 9, 0, 1) * (0.7 + 0.3 * np.minimum(distance, 1) ** 4)
        picture = picture + _pick(generator, _VIVID) * (generator.uniform(0.25, 0.8) * disc)[..., None]
    return canvas.soften(picture, generator.uniform(0.003, 0.012))


def _garden(canvas: Canvas, generator: np.random.Generator) -> Array:
    """Leaves out of focus, brighter towards the top."""
    picture = canvas.plain(_pick(generator, _GREENS))
    for cells in (4, 7, 12, 20):
        patch = np.clip(1.2 * canvas.noise(generator, cells) - 0.2, 0, 1)
        picture = mix(picture, _pick(generator, _GREENS), 0.75 * patch)
    picture = picture * (1.25 - 0.7 * canvas.screen_y)[..., None]
    glints = np.clip(canvas.noise(generator, 26) - 1.5, 0, 1)
    return canvas.soften(mix(picture, linear((240, 240, 200)), 0.8 * glints), generator.uniform(0.010, 0.026))


def _room(canvas: Canvas, generator: np.random.Generator) -> Array:
    """Frames, shelves or windows out of focus."""
    picture = _gradient(canvas, generator, _MUTED, _MUTED)
    for _ in range(generator.integers(5, 14)):
        left, top = generator.uniform(-0.1, 0.95), generator.uniform(-0.1, 0.9)
        right, low = left + generator.uniform(0.04, 0.35), top + generator.uniform(0.06, 0.5)
        corners = np.array([(left, top), (right, top), (right, low), (left, low)]) * canvas.pixels
        mask = np.zeros((canvas.pixels, canvas.pixels), np.float32)
        cv2.fillConvexPoly(mask, corners.astype(np.int32), 1.0)
        color = _pick(generator, _MUTED if generator.random() < 0.6 else _VIVID) * generator.uniform(0.4, 1.3)
        picture = mix(picture, color, mask * generator.uniform(0.5, 1))
    return canvas.soften(picture, generator.uniform(0.006, 0.022))


def _sky(canvas: Canvas, generator: np.random.Generator) -> Array:
    high, low = linear((96, 142, 196)), linear((206, 220, 232))
    picture = high + (low - high) * np.clip(canvas.screen_y * 1.2, 0, 1)[..., None]
    cloud = (
        canvas.noise(generator, 4, 6) + 0.5 * canvas.noise(generator, 9, 12) + 0.25 * canvas.noise(generator, 20, 26)
    )
    return mix(picture.astype(np.float32), linear((246, 246, 246)), np.clip(0.55 * cloud, 0, 0.9))


_BACKGROUNDS: tuple[tuple[Callable[[Canvas, np.random.Generator], Array], float], ...] = (
    (_studio, 0.27), (_mottled, 0.18), (_lights, 0.14), (_garden, 0.16), (_room, 0.16), (_sky, 0.09),
)  # fmt: skip


def draw_background(canvas: Canvas, generator: np.random.Generator) -> Array:
    """Return a background, H x W x 3, linear."""
    weights = [weight for _, weight in _BACKGROUNDS]
    paint = _BACKGROUNDS[generator.choice(len(_BACKGROUNDS), p=weights)][0]
    return np.ascontiguousarray(paint(canvas, generator), np.float32)


def draw_clothes(canvas: Canvas, picture: Array, person: Person, light: Light, generator: np.random.Generator) -> Array:
    """Paint shoulders and one of several necklines over the neck."""
    # Shoulders and neckline.
    color, second = _pick(generator, _CLOTHES), _pick(generator, _CLOTHES)
    width = 0.165 + 0.035 * (1 - person.femininity)
    shoulder = [(width * 0.98, 0.925), (width * 1.25, 0.955), (0.36, 1.0), (0.56, 1.06), (0.62, 1.25)]
    right = spline([(0.5 + dx, y) for dx, y in shoulder], 24)
    left = right[::-1] * (-1, 1) + (1, 0)
    kind = str(generator.choice(['round', 'deep', 'shirt', 'roll', 'hood'], p=[0.3, 0.2, 0.22, 0.14, 0.14]))
    low = {'round': 0.985, 'deep': 1.10, 'shirt': 1.06, 'roll': 0.93, 'hood': 1.03}[kind] + generator.normal(0, 0.008)
    slope = 0.5 * (0.925 + low)
    neckline = spline([left[-1], (0.5 - 0.6 * width, slope), (0.5, low), (0.5 + 0.6 * width, slope), right[0]], 24)

    # The cloth, with a rolled collar or a trim along the neckline.
    mask = canvas.fill(np.concatenate([right, left, neckline]), 0.0015)
    albedo = _fabric(canvas, generator, color, second)
    height = 0.10 * canvas.soften(mask, 0.03) + 0.004 * canvas.noise(generator, 7)
    if kind == 'roll':
        band = canvas.fill(symmetric(np.array([(width, 0.86), (width * 1.1, 1.1)])), 0.003)
        band *= np.clip((canvas.y - 0.885 + 0.25 * (canvas.x - 0.5) ** 2) / 0.006, 0, 1)
        mask = np.maximum(mask, band)
        height = height + 0.10 * np.sqrt(np.maximum(1 - ((canvas.x - 0.5) / (1.1 * width)) ** 2, 0.05)) * band
    else:
        edge = ribbon(neckline, np.full(24, 0.022 if kind != 'hood' else 0.060))
        trim = canvas.fill(edge, 0.002)
        mask = np.maximum(mask, trim)
        height = height + (0.012 if kind != 'hood' else 0.035) * canvas.soften(trim, 0.006)
        if generator.random() < 0.35:
            albedo = mix(albedo, second, trim)

    shadow = canvas.soften(canvas.shifted(mask, -0.02 * light.direction[0], 0.018), 0.012)
    picture = picture * (1 - 0.35 * shadow * (1 - mask))[..., None]
    picture = mix(picture, shade(albedo, height.astype(np.float32), light, 0.95, 0.02, 8.0), mask)
    return _collar(canvas, picture, light, color, width) if kind == 'shirt' else picture


def _fabric(canvas: Canvas, generator: np.random.Generator, color: Array, second: Array) -> Array:
    albedo = canvas.plain(color)
    pattern = generator.random()
    if pattern < 0.2:
        stripes = 0.5 + 0.5 * np.sin(canvas.y * generator.uniform(150, 320) + 3 * (canvas.x - 0.5) ** 2)
        albedo = mix(albedo, second, (stripes > 0.5).astype(np.float32))
    elif pattern < 0.35:
        check = (np.sin(canvas.y * 170) > 0.2).astype(np.float32) + (np.sin(canvas.x * 170) > 0.2)
        albedo = mix(albedo, second, 0.4 * check)
    weave = 0.05 * canvas.noise(generator, 150) + 0.04 * canvas.noise(generator, 40)
    return albedo * np.clip(1 + weave, 0.5, 1.5)[..., None]


def _collar(canvas: Canvas, picture: Array, light: Light, color: Array, width: float) -> Array:
    """Two flaps of a shirt collar."""
    flap = [(1.02, 0.905), (1.22, 0.945), (0.80, 1.045), (0.20, 1.03), (0.72, 0.975)]
    mask = np.zeros_like(canvas.x)
    for side in (-1, 1):
        mask = np.maximum(mask, canvas.fill([(0.5 + side * width * u, y) for u, y in flap], 0.0012))
    shadow = canvas.soften(canvas.shifted(mask, 0, 0.010), 0.008)
    picture = picture * (1 - 0.4 * shadow * (1 - mask))[..., None]
    albedo = canvas.plain(color * 1.06)
    return mix(picture, shade(albedo, 0.05 * canvas.soften(mask, 0.010), light), mask)
