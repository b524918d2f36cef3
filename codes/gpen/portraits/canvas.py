"""What everything in a portrait is drawn with: the pose, soft shapes, strokes, noise and shading.

Positions are in *face units*: the picture is 1 wide and 1 high, x to the right, y down, and in a frontal portrait
without jitter the eyes lie at (0.375, 0.475) and (0.625, 0.475) and the mouth at (0.5, 0.74), as in FFHQ.  All is drawn
in these units, so the same portrait comes out at every size.  Colours are linear light, float32, 1 is white.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Color = tuple[float, float, float]

_SUBPIXEL_BITS = 4


def linear(color: Sequence[float] | Array) -> Array:
    """Turn an sRGB colour (0 to 255) into linear light (0 to 1), with a plain power of 2.2."""
    return (np.asarray(color, np.float32) / 255) ** np.float32(2.2)


def to_srgb(image: Array) -> Array:
    """Turn linear light into display values in [0, 1]; highlights roll off instead of clipping hard."""
    knee = 0.72
    over = np.maximum(image - knee, 0)
    rolled = np.minimum(image, knee) + (1 - knee) * (1 - np.exp(-over / (1 - knee)))
    return np.maximum(rolled, 0) ** np.float32(1 / 2.2)


def mix(base: Array, over: Array | float, alpha: Array) -> Array:
    """Lay ``over`` (a colour or a picture) on ``base`` (H x W x 3) with the mask ``alpha`` (H x W, 0 to 1)."""
    mixed = base.copy()
    columns, rows = np.flatnonzero(alpha.max(axis=0) > 1e-4), np.flatnonzero(alpha.max(axis=1) > 1e-4)
    if len(columns):
        # Most masks are small; working only where they lie halves the time of a portrait.
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        cover = over[window] if isinstance(over, np.ndarray) and over.ndim == 3 else over
        mixed[window] += (cover - base[window]) * alpha[window][..., None]
    return mixed


def spline(points: Sequence[Sequence[float]] | Array, count: int) -> Array:
    """Return ``count`` points on the Catmull-Rom curve through ``points`` (K x 2), its ends included."""
    return spline_basis(len(points), count) @ np.asarray(points, np.float32)


def spline_basis(knots: int, count: int) -> Array:
    """Return the matrix (count x knots) that maps the knots of a Catmull-Rom curve to points on it."""
    position = np.linspace(0, knots - 1, count)
    segment = np.minimum(position.astype(int), knots - 2)
    t = position - segment
    weights = (
        (-0.5 * t + t**2 - 0.5 * t**3),
        (1 - 2.5 * t**2 + 1.5 * t**3),
        (0.5 * t + 2 * t**2 - 1.5 * t**3),
        (-0.5 * t**2 + 0.5 * t**3),
    )
    matrix = np.zeros((count, knots + 2), np.float64)
    for offset, weight in enumerate(weights):
        matrix[np.arange(count), segment + offset] = weight
    # The curve needs a knot before the first and after the last: they continue the end segments straight.
    matrix[:, 1] += 2 * matrix[:, 0]
    matrix[:, 2] -= matrix[:, 0]
    matrix[:, -2] += 2 * matrix[:, -1]
    matrix[:, -3] -= matrix[:, -1]
    return matrix[:, 1:-1].astype(np.float32)


def ribbon(points: Array, widths: Sequence[float] | Array) -> Array:
    """Return the outline of a stroke along ``points`` (N x 2) whose width changes: N values, face units."""
    tangent = np.gradient(points, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    offset = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * (np.asarray(widths, np.float32)[:, None] / 2)
    return np.concatenate([points + offset, (points - offset)[::-1]]).astype(np.float32)


def symmetric(half: Array) -> Array:
    """Return the closed outline of which ``half`` is the right half (N x 2: distance from the middle, y)."""
    return np.concatenate([half * (1, 1) + (0.5, 0), half[::-1] * (-1, 1) + (0.5, 0)]).astype(np.float32)


def beside(points: Sequence[Sequence[float]], side: int) -> Array:
    """Return points (distance from the middle, y) on the left (-1) or the right (1) of the face, N x 2."""
    return np.array([(0.5 + side * distance, y) for distance, y in points])


def split_off(generator: np.random.Generator) -> np.random.Generator:
    """Return a generator of its own for a part that draws a number of values that depends on the size of the canvas.

    Without it, everything drawn later would differ from size to size.
    """
    return np.random.default_rng(int(generator.integers(2**63)))


@dataclass(frozen=True)
class Pose:
    """How the head is turned: angles in radians, shifts in face units."""

    roll: float
    yaw: float
    pitch: float
    scale: float
    shift: tuple[float, float]

    @classmethod
    def sample(cls, generator: np.random.Generator) -> Pose:
        """Draw a pose close to a frontal, aligned one."""
        return cls(
            roll=float(generator.normal(0, 0.025)),
            yaw=float(np.clip(generator.normal(0, 0.16), -0.36, 0.36)),
            pitch=float(np.clip(generator.normal(0, 0.10), -0.2, 0.2)),
            scale=float(generator.uniform(0.97, 1.03)),
            shift=(float(generator.normal(0, 0.006)), float(generator.normal(0, 0.006))),
        )

    def _parallax(self, x: Array, y: Array) -> tuple[Array, Array]:
        """How far turning the head moves a point: the more, the more it stands out; eyes and mouth stay put."""
        head = 0.20 * np.exp(-(((x - 0.5) / 0.23) ** 2) - ((y - 0.55) / 0.36) ** 2)
        nose = 0.05 * np.exp(-(((x - 0.5) / 0.05) ** 2) - ((y - 0.625) / 0.06) ** 2)
        depth = head + nose - 0.15
        return np.sin(self.yaw) * depth, np.sin(self.pitch) * depth

    def project(self, points: Array) -> Array:
        """Map points (... x 2) from the frontal face to the picture, in face units."""
        shift_x, shift_y = self._parallax(points[..., 0], points[..., 1])
        x, y = points[..., 0] + shift_x - 0.5, points[..., 1] + shift_y - 0.55
        cos, sin = self.scale * np.cos(self.roll), self.scale * np.sin(self.roll)
        return np.stack(
            [cos * x - sin * y + 0.5 + self.shift[0], sin * x + cos * y + 0.55 + self.shift[1]], axis=-1
        ).astype(np.float32)

    def unproject(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Map positions in the picture back to the frontal face: the inverse of :meth:`project`."""
        x, y = x - 0.5 - self.shift[0], y - 0.55 - self.shift[1]
        cos, sin = np.cos(self.roll) / self.scale, np.sin(self.roll) / self.scale
        turned_x, turned_y = cos * x + sin * y + 0.5, -sin * x + cos * y + 0.55
        face_x, face_y = turned_x, turned_y
        for _ in range(5):
            # The parallax changes slowly with the position, so a fixed-point iteration converges.
            shift_x, shift_y = self._parallax(face_x, face_y)
            face_x, face_y = turned_x - shift_x, turned_y - shift_y
        return face_x.astype(np.float32), face_y.astype(np.float32)


class Canvas:
    """The grid of pixels of one portrait.

    Args:
        pixels: side of the square.
        pose: how the head is turned.

    Attributes:
        x, y: where each pixel lies on the frontal face, face units, each H x W.
        screen_x, screen_y: where each pixel lies in the picture, the same.
    """

    def __init__(self, pixels: int, pose: Pose) -> None:
        self.pixels = pixels
        self.pose = pose
        axis = (np.arange(pixels, dtype=np.float32) + 0.5) / pixels
        grid_x, grid_y = np.meshgrid(axis, axis)
        self.screen_x, self.screen_y = grid_x, grid_y
        self.x, self.y = pose.unproject(grid_x, grid_y)
        self._origin = np.zeros(2, np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the arrays of this canvas."""
        return self.x.shape[0], self.x.shape[1]

    def plain(self, color: Array) -> Array:
        """Return a picture of one colour, H x W x 3."""
        return np.broadcast_to(color, (*self.shape, 3)).astype(np.float32)

    def around(self, x: float, y: float, reach: float) -> tuple[Canvas, tuple[slice, slice]]:
        """Return a canvas of the surroundings of a point of the face, and the window of this one that it shows.

        What is small is drawn there in a fraction of the time.
        """
        (left, top), (right, low) = self._box(x, y, reach)
        window = slice(top, low), slice(left, right)
        part = copy(self)
        part.x, part.y = self.x[window], self.y[window]
        part.screen_x, part.screen_y = self.screen_x[window], self.screen_y[window]
        part._origin = self._origin + np.array([left, top], np.float32)
        return part, window

    def _box(self, x: float, y: float, reach: float) -> NDArray[np.int_]:
        """Return two corners, (left, top) and (right, bottom), of the pixels within ``reach`` of a point."""
        center = self.pose.project(np.array([x, y], np.float32)) * self.pixels - self._origin
        corners = np.stack([center - reach * self.pixels, center + reach * self.pixels])
        return np.clip(corners, 0, self.shape[::-1]).astype(int)

    def to_pixels(self, points: Array) -> NDArray[np.int32]:
        """Return the points (... x 2, face units) as OpenCV wants them: fixed-point pixel positions."""
        positions = self.pose.project(np.asarray(points, np.float32)) * self.pixels - self._origin - 0.5
        return np.rint(positions * (1 << _SUBPIXEL_BITS)).astype(np.int32)

    def fill(self, points: Sequence[Sequence[float]] | Array, blur: float = 0.0) -> Array:
        """Return the mask (0 to 1) of a polygon; ``blur`` is the sigma of its soft edge in face units."""
        mask = np.zeros(self.shape, np.uint8)
        cv2.fillPoly(mask, [self.to_pixels(np.asarray(points, np.float32))], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        return self.soften(mask.astype(np.float32) / 255, blur)

    def band(self, first: Array, second: Array, blur: float = 0.0) -> Array:
        """Return the mask of what lies between two curves that run in the same direction."""
        return self.fill(np.concatenate([first, second[::-1]]), blur)

    def strokes(self, target: NDArray[np.uint8], lines: Sequence[Array] | Array, width: float, value: int) -> None:
        """Draw open polylines of one width (face units) and one value (0 to 255) into ``target`` in place."""
        thickness = max(1, round(width * self.pixels))
        points = list(self.to_pixels(lines) if isinstance(lines, np.ndarray) else map(self.to_pixels, lines))
        cv2.polylines(target, points, False, value, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)

    def line(self, points: Sequence[Sequence[float]] | Array, width: float, blur: float = 0.0) -> Array:
        """Return the mask (0 to 1) of one stroke."""
        mask = np.zeros(self.shape, np.uint8)
        self.strokes(mask, [np.asarray(points, np.float32)], width, 255)
        # A line cannot be thinner than a pixel; below that it gets fainter instead.
        return self.soften(mask.astype(np.float32) * (min(1.0, width * self.pixels) / 255), blur)

    def soften(self, mask: Array, sigma: float) -> Array:
        """Blur a mask by ``sigma`` face units; nothing happens below a third of a pixel."""
        if sigma * self.pixels < 0.34:
            return mask
        return cv2.GaussianBlur(mask, (0, 0), sigma * self.pixels)

    def bump(self, x: float, y: float, width: float, height: float, angle: float = 0.0) -> Array:
        """Return a Gaussian hill of height 1 at a point of the face, its axes turned by ``angle`` radians."""
        hill = np.zeros_like(self.x)
        (left, top), (right, low) = self._box(x, y, 5 * max(width, height))
        window = slice(top, low), slice(left, right)
        if left == right or top == low:
            return hill

        along, across = self.x[window] - np.float32(x), self.y[window] - np.float32(y)
        if angle:
            cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
            along, across = cos * along + sin * across, cos * across - sin * along
        distance = (along / np.float32(width)) ** 2 + (across / np.float32(height)) ** 2
        hill[window] = cv2.exp(np.float32(-0.5) * distance)
        return hill

    def pair(self, x: float, y: float, width: float, height: float, angle: float = 0.0) -> Array:
        """Return two hills, mirrored about the middle of the face; ``x`` is the distance from it."""
        return self.bump(0.5 + x, y, width, height, angle) + self.bump(0.5 - x, y, width, height, -angle)

    def noise(self, generator: np.random.Generator, cells_x: int, cells_y: int | None = None) -> Array:
        """Return smooth noise of variance near 1, with this many cells across the picture."""
        grid = generator.standard_normal((cells_y or cells_x, cells_x), dtype=np.float32)
        return cv2.resize(grid, (self.pixels, self.pixels), interpolation=cv2.INTER_CUBIC)

    def shifted(self, mask: Array, x: float, y: float) -> Array:
        """Move a mask by face units; the border is repeated."""
        matrix = np.array([[1, 0, x * self.pixels], [0, 1, y * self.pixels]], np.float32)
        return cv2.warpAffine(mask, matrix, (self.pixels, self.pixels), borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True)
class Light:
    """One main light, light from all around, and sometimes a rim light from behind.

    ``direction`` points to the light: x right, y down, z to the viewer.  Colours are linear and multiply the albedo.
    """

    direction: Color
    key: Array
    ambient: Array
    rim: Array
    rim_side: float

    @classmethod
    def sample(cls, generator: np.random.Generator) -> Light:
        """Draw a flattering light: from in front and above, left or right, warm or cool."""
        azimuth = np.radians(generator.uniform(-60, 60))
        elevation = np.radians(generator.uniform(12, 48))
        warmth = generator.normal(0, 0.06)
        tint = np.array([1 + warmth, 1.0, 1 - warmth], np.float32)
        fill = generator.uniform(0.28, 0.55)
        rim = generator.uniform(0.2, 0.7) if generator.random() < 0.35 else 0.0

        return cls(
            direction=(
                float(np.sin(azimuth) * np.cos(elevation)),
                float(-np.sin(elevation)),
                float(np.cos(azimuth) * np.cos(elevation)),
            ),
            key=tint * np.float32(generator.uniform(0.86, 1.06) - 0.5 * (fill - 0.4)),
            ambient=np.float32(fill) * (2 - tint),
            rim=np.float32(rim) * np.asarray(generator.uniform(0.8, 1.1, 3), np.float32),
            rim_side=float(-np.sign(azimuth) or 1),
        )


def normals(height: Array, pixels: int) -> tuple[Array, Array, Array]:
    """Return the unit normals (x, y, z; each H x W) of a height map given in face units."""
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=pixels / 8)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=pixels / 8)
    length = cv2.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    return -slope_x / length, -slope_y / length, 1 / length


def shade(
    albedo: Array,
    height: Array,
    light: Light,
    occlusion: Array | float = 1.0,
    gloss: Array | float = 0.0,
    sharpness: float = 14.0,
    wrap: Color = (0.0, 0.0, 0.0),
) -> Array:
    """Light a surface: wrapped Lambert diffuse, hemispheric ambient, Blinn-Phong highlight, rim.

    Args:
        albedo: H x W x 3, linear.
        height: H x W, face units.
        light: where the light comes from.
        occlusion: 1 in the open, towards 0 where light does not get in; H x W.
        gloss: strength of the highlight; H x W or one number.
        sharpness: exponent of the highlight.
        wrap: how far light creeps round the edge, per colour; more red than blue makes skin look alive.
    """
    # How directly each pixel faces the light, mirrors it to the viewer, and shows its edge to the rim light.
    n_x, n_y, n_z = normals(height, height.shape[0])
    l_x, l_y, l_z = light.direction
    facing = l_x * n_x + l_y * n_y + l_z * n_z
    half = np.array([l_x, l_y, l_z + 1], np.float32)
    half /= np.linalg.norm(half)
    highlight = np.maximum(half[0] * n_x + half[1] * n_y + half[2] * n_z, 0) ** np.float32(sharpness)
    from_above = 0.82 - 0.28 * n_y
    rim = np.maximum(light.rim_side * n_x - 0.35, 0) * (1 - n_z) * 1.6

    shaded = np.empty_like(albedo)
    for channel in range(3):
        diffuse = np.maximum(facing + wrap[channel], 0) / (1 + wrap[channel])
        received = light.key[channel] * diffuse + light.ambient[channel] * from_above + light.rim[channel] * rim
        glint = light.key[channel] * gloss * highlight
        shaded[..., channel] = (albedo[..., channel] * received + glint) * occlusion
    return shaded
