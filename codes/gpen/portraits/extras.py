"""Beard and glasses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpen.portraits.canvas import Array, Canvas, Light, linear, mix, shade, spline, split_off, symmetric
from gpen.portraits.person import Person, Shape

_FRAMES = ((24, 22, 24), (70, 44, 30), (120, 80, 50), (150, 150, 156), (180, 146, 84), (110, 34, 44), (40, 60, 100))


@dataclass(frozen=True)
class Beard:
    """``kind`` is one of full, goatee, moustache, shadow (a few days old); ``length`` in face units."""

    kind: str
    length: float
    density: float

    @classmethod
    def sample(cls, generator: np.random.Generator, person: Person) -> Beard | None:
        """Draw a beard, or none: about half of the men have something."""
        if generator.random() > 0.55 * np.clip(1.4 - 2.2 * person.femininity, 0, 1):
            return None
        kind = str(generator.choice(['full', 'goatee', 'moustache', 'shadow'], p=[0.34, 0.14, 0.14, 0.38]))
        return cls(kind, float(generator.uniform(0.004, 0.035)), float(generator.uniform(0.7, 1.0)))

    def region(self, canvas: Canvas, shape: Shape, mouth_y: float, mouth_width: float) -> Array:
        """Return the mask of the skin that the beard grows on."""
        # Right half of the outline, from the upper lip to the chin.
        tip = shape.nose_y
        upper = [(0.0, tip + 0.050), (0.035, tip + 0.046), (0.075, mouth_y - 0.030), (0.105, mouth_y - 0.006)]
        if self.kind == 'moustache':
            right = [*upper, (0.112, mouth_y + 0.022), (0.085, mouth_y + 0.004), (0.0, mouth_y - 0.008)]
        elif self.kind == 'goatee':
            chin = shape.chin + self.length
            right = [*upper, (0.112, mouth_y + 0.04), (0.096, 0.84), (0.06, chin - 0.02), (0.0, chin)]
        else:
            rim = shape.outline[shape.outline[:, 1] > 0.50] * (1 + 0.5 * self.length, 1) + (0.002, 0)
            rim[:, 1] += self.length * np.clip((rim[:, 1] - 0.6) / 0.3, 0, 1)
            right = [*upper, (0.145, mouth_y - 0.022), (0.190, 0.635), (0.214, 0.560), (0.220, 0.49), *map(tuple, rim)]
        mask = canvas.fill(symmetric(np.array(right, np.float32)), 0.007)

        lips = np.array([(np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, 30)])
        hole = canvas.fill(lips * (mouth_width * 0.98, 0.030) + (0.5, mouth_y + 0.004), 0.004)
        return mask * (1 - hole)

    def paint_shadow(
        self, canvas: Canvas, albedo: Array, region: Array, person: Person, generator: np.random.Generator
    ) -> Array:
        """Darken the unlit skin under the beard; all there is of a beard a few days old."""
        grain = np.clip(0.72 + 0.34 * canvas.noise(generator, 170), 0, 1.4)
        strength = 0.50 if self.kind == 'shadow' else 0.75
        return mix(albedo, 0.6 * person.body_hair + 0.10 * person.skin, strength * self.density * region * grain)

    def draw(
        self,
        canvas: Canvas,
        picture: Array,
        region: Array,
        relief: Array,
        person: Person,
        light: Light,
        generator: np.random.Generator,
    ) -> Array:
        """Paint the hairs of a grown beard over the lit face."""
        if self.kind == 'shadow':
            return picture

        # Hairs grow where the beard is, away from the middle of the face and down.
        generator = split_off(generator)
        mask, tone = np.zeros(region.shape, np.uint8), np.full(region.shape, 96, np.uint8)
        places = generator.uniform((0.24, 0.48), (0.76, 1.0), (3400, 2)).astype(np.float32)
        pixels = np.clip((canvas.pose.project(places) * canvas.pixels).astype(int), 0, canvas.pixels - 1)
        places = places[region[pixels[:, 1], pixels[:, 0]] > 0.45]
        aim = places - (0.5, 0.60)
        aim = aim / np.linalg.norm(aim, axis=1, keepdims=True) * (0.8, 0.7) + (0, 0.45)
        aim += generator.normal(0, 0.22, aim.shape)
        steps = (0.010 + 0.5 * self.length) * generator.uniform(0.6, 1.2, (len(places), 1)) * aim
        lines = np.stack([places - 0.4 * steps, places + 0.6 * steps], axis=1)

        # Draw them in eight layers, in each from dark to bright.
        tones = (generator.normal(110, 32, len(places)) / 22).astype(int).clip(2, 11)
        for layer in np.array_split(np.arange(len(places)), 8):
            for level in np.unique(tones[layer]):
                group = lines[layer[tones[layer] == level]]
                canvas.strokes(tone, group, 0.0034, int(level) * 22)
                canvas.strokes(mask, group, 0.0030, 255)

        alpha = np.maximum(0.8 * region, 0.85 * mask.astype(np.float32) / 255) * self.density
        level = tone.astype(np.float32) / 110
        albedo = person.body_hair * 0.85 * (0.18 + 0.82 * level**1.6)[..., None]
        height = relief + 0.012 * canvas.soften(region, 0.008) + 0.003 * level
        return mix(picture, shade(albedo, height, light, 0.95, 0.03 * level, 10.0, (0.25, 0.25, 0.25)), alpha)


@dataclass(frozen=True)
class Glasses:
    """Lenses are superellipses with the given half sides and exponent; ``lift`` raises the outer corners."""

    half_width: float
    half_height: float
    exponent: float
    lift: float
    frame: float
    color: Array
    is_metal: bool
    tint: float

    @classmethod
    def sample(cls, generator: np.random.Generator, person: Person) -> Glasses | None:
        """Draw glasses for about a fifth of the people, more when old."""
        if generator.random() > 0.15 + 0.2 * person.age:
            return None

        index = int(generator.integers(len(_FRAMES)))
        is_metal = index in (3, 4)
        return cls(
            half_width=float(generator.uniform(0.072, 0.086)),
            half_height=float(generator.uniform(0.046, 0.068)),
            exponent=float(generator.choice([2.0, 2.6, 3.6, 5.0])),
            lift=float(generator.uniform(0, 0.016) * person.femininity),
            frame=float(generator.uniform(0.004, 0.006) if is_metal else generator.uniform(0.006, 0.013)),
            color=linear(_FRAMES[index]),
            is_metal=is_metal,
            tint=float(generator.uniform(0.02, 0.12)),
        )

    def _lens(self, side: int) -> Array:
        angle = np.linspace(0, 2 * np.pi, 49)
        power = 2 / self.exponent
        x = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power
        y = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power
        y = self.half_height * y * (1 + 0.06 * x * (y > 0)) - self.lift * x
        return np.stack([0.5 + side * (0.130 + self.half_width * x), 0.489 + y], 1).astype(np.float32)

    def _lines(self, shape: Shape) -> list[tuple[Array, float]]:
        """All strokes of the frame with their widths."""
        gap = 0.130 - self.half_width
        lines = [(spline([(0.5 - gap, 0.476), (0.5, 0.464), (0.5 + gap, 0.476)], 12), self.frame)]
        for side in (-1, 1):
            lines.append((self._lens(side), self.frame))
            hinge = (0.5 + side * (0.130 + 0.98 * self.half_width), 0.470 - self.lift)
            ear = (0.5 + side * (float(shape.half_width(0.47)) + 0.006), 0.466)
            lines.append((np.array([hinge, ear], np.float32), 1.1 * self.frame))
        return lines

    def draw(self, canvas: Canvas, picture: Array, shape: Shape, light: Light) -> Array:
        """Paint the shadow on the face, the lenses' sheen and the frame."""
        # Strokes of the frame, and of its shadow.
        lines = self._lines(shape)
        shadow, frame = np.zeros_like(canvas.x), np.zeros_like(canvas.x)
        fall = np.array([-0.012 * light.direction[0], 0.011], np.float32)
        for line, width in lines:
            shadow = np.maximum(shadow, canvas.line(line + fall, width))
            frame = np.maximum(frame, canvas.line(line, width))

        picture = picture * (1 - 0.38 * canvas.soften(shadow, 0.004))[..., None]
        for side in (-1, 1):
            lens = canvas.fill(self._lens(side))
            x = 0.5 + side * 0.130
            streak = np.clip(1 - np.abs((canvas.x - x) * 0.8 + (canvas.y - 0.45) + 0.01) / 0.02, 0, 1)
            picture = mix(picture, 0.75 * light.key, (0.05 + self.tint * streak) * lens)

        height = 0.012 * canvas.soften(frame, 0.002)
        albedo = canvas.plain(self.color)
        gloss = 0.7 if self.is_metal else 0.22
        return mix(picture, shade(albedo, height, light, 1.0, gloss, 24.0), np.minimum(1.2 * frame, 1))
