"""Hair as sheets of strands: drawing and lighting.  The styles are in ``hairstyles``."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpen.portraits.canvas import Array, Canvas, Light, mix, shade, spline_basis, split_off
from gpen.portraits.person import Person

_TONE_LEVELS = 14
_STRAND_POINTS = 16


@dataclass(frozen=True)
class Sheet:
    """Hair that grows from one line to another.

    Attributes:
        rails: lines (each N x 2) that every strand crosses in turn, from the roots to the tips; the strand at the share
            ``s`` of the first rail crosses all others at their share ``s``.
        strands: how many are drawn.
        wave, cycles: amplitude (face units) and number of the waves along a strand.
        clumps: number of locks that strands gather into; 0 for none.
        spread: how far strands stray from their place.
        tone: brightness of the whole sheet, 1 is the colour of the hair.
        soft_roots: whether the edge at the roots is made of single hairs, as at a hairline.
    """

    rails: Sequence[Array]
    strands: int = 220
    wave: float = 0.0
    cycles: float = 2.0
    clumps: int = 14
    spread: float = 0.006
    tone: float = 1.0
    soft_roots: bool = False


@dataclass(frozen=True)
class Curls:
    """Small rings scattered over all hair of a layer."""

    radius: float
    count: int


@dataclass(frozen=True)
class HairStyle:
    """What is drawn behind the head and before it.

    ``parting`` is the line that the hair falls away from; ``stubble`` is a polygon of the scalp with hair too short for
    strands.
    """

    back: Sequence[Sheet] = ()
    front: Sequence[Sheet] = ()
    curls: Curls | None = None
    parting: Array | None = None
    stubble: Array | None = None
    stubble_density: float = 0.0


def between(inner: Sequence[Sequence[float]] | Array, outer: Sequence[Sequence[float]] | Array) -> list[Array]:
    """Return the rails of a sheet that is bounded by two strands."""
    return [np.array([a, b], np.float32) for a, b in zip(inner, outer, strict=True)]


def _across(rail: Array, share: Array) -> Array:
    """Return the points at the shares (N, 0 to 1) of a polyline."""
    position = np.linspace(0, 1, len(rail))
    return np.stack([np.interp(share, position, rail[:, axis]) for axis in (0, 1)], axis=-1)


class HairLayer:
    """Where hair is (``mask``, 0 to 1) and how light each spot is (``tone``, around 1); both H x W."""

    def __init__(
        self, canvas: Canvas, generator: np.random.Generator, style: HairStyle, sheets: Sequence[Sheet]
    ) -> None:
        self._canvas = canvas
        self._generator = generator
        self._mask = np.zeros((canvas.pixels, canvas.pixels), np.uint8)
        self._tone = np.full((canvas.pixels, canvas.pixels), 110, np.uint8)

        for sheet in sheets:
            self._draw(sheet)
        if sheets and style.curls:
            self._draw_curls(style.curls)

        self.mask: Array = canvas.soften(self._mask.astype(np.float32) / 255, 0.0012)
        self.tone: Array = canvas.soften(self._tone.astype(np.float32) / 110, 0.0010)
        if style.parting is not None:
            self.tone = self.tone * (1 - 0.45 * canvas.line(style.parting, 0.006, 0.004))

    def _draw(self, sheet: Sheet) -> None:
        """Draw the strands of a sheet over its ground."""
        self._fill(sheet)
        generator, count = self._generator, sheet.strands
        share = np.sort(generator.random(count))
        basis = spline_basis(len(sheet.rails), _STRAND_POINTS)
        t = np.linspace(0, 1, _STRAND_POINTS)

        # Where each strand crosses each rail; locks pull their strands together towards the tips.
        clump_tone = np.zeros(count)
        own = np.repeat(share[:, None], len(sheet.rails), axis=1)
        if sheet.clumps:
            index = np.minimum((share * sheet.clumps).astype(int), sheet.clumps - 1)
            centers = (np.arange(sheet.clumps) + generator.uniform(0.2, 0.8, sheet.clumps)) / sheet.clumps
            pull = np.linspace(0, 0.55, len(sheet.rails))
            own += pull * (centers[index] - share)[:, None]
            clump_tone = generator.normal(0, 0.10, sheet.clumps)[index]

        # The strands as curves, then their waves and their roots.
        knots = np.stack([_across(rail, own[:, k]) for k, rail in enumerate(sheet.rails)], axis=1)
        lines = np.einsum('pk,nkc->npc', basis, knots)
        lines += generator.normal(0, sheet.spread, (count, 1, 2)) * np.linspace(0.3, 1, _STRAND_POINTS)[:, None]
        if sheet.wave:
            phase = 5.0 * share[:, None] + generator.normal(0, 0.25, (count, 1))
            sway = sheet.wave * np.sin(2 * np.pi * (sheet.cycles * t + phase)) * np.minimum(2.5 * t, 1)
            lines[..., 0] += sway
            lines[..., 1] += 0.4 * sway
        if sheet.soft_roots:
            away = lines[:, :1] - lines[:, 2:3]
            lines += generator.uniform(-0.1, 0.45, (count, 1, 1)) * away * (1 - t)[:, None] ** 3

        edge = 1 - 0.22 * np.abs(2 * share - 1) ** 3
        self._strands(lines, sheet.tone * edge * (1 + clump_tone + generator.normal(0, 0.17, count)), generator)

    def _fill(self, sheet: Sheet) -> None:
        """Ground under the strands, so that no gaps show."""
        basis = spline_basis(len(sheet.rails), 24)
        sides = [np.stack([_across(rail, np.array([s]))[0] for rail in sheet.rails]) for s in (0.0, 1.0)]
        first, last = (basis @ side for side in sides)
        roots = sheet.rails[0]
        if sheet.soft_roots:
            # The ground starts behind the hairline; only single hairs reach it.
            share = np.linspace(0, 1, 24)
            roots = 0.86 * _across(sheet.rails[0], share) + 0.14 * _across(sheet.rails[1], share)

        outline = np.concatenate([first, sheet.rails[-1], last[::-1], roots[::-1]])
        ground = self._canvas.fill(outline)
        self._mask = np.maximum(self._mask, (255 * ground).astype(np.uint8))
        self._tone = np.where(ground > 0.3, np.uint8(84 * sheet.tone), self._tone)

    def _draw_curls(self, curls: Curls) -> None:
        canvas, generator = self._canvas, split_off(self._generator)
        places = generator.uniform((0.0, -0.05), (1.0, 1.1), (curls.count * 4, 2)).astype(np.float32)
        pixels = np.clip((canvas.pose.project(places) * canvas.pixels).astype(int), 0, canvas.pixels - 1)
        places = places[self._mask[pixels[:, 1], pixels[:, 0]] > 128][: curls.count]
        count = len(places)
        turn = generator.uniform(0, 2 * np.pi, (count, 1))
        turn = turn + np.linspace(0, 1, 8) * generator.uniform(1.8, 4.4, (count, 1))
        radius = curls.radius * generator.uniform(0.6, 1.3, (count, 1))
        lines = places[:, None] + np.stack([radius * np.cos(turn), 0.8 * radius * np.sin(turn)], axis=-1)
        self._strands(lines, 1 + generator.normal(0, 0.25, count), generator, 0.0052)

    def _strands(self, lines: Array, tones: Array, generator: np.random.Generator, width: float = 0.0036) -> None:
        """Draw strands (N x P x 2) in random order, those of one tone together."""
        values = np.clip(110 * tones, 22, 250)
        batch = generator.integers(_TONE_LEVELS, size=len(lines))
        for number in range(_TONE_LEVELS):
            chosen = np.flatnonzero(batch == number)
            levels = np.round(values[chosen] / 24).astype(int)
            for level in generator.permutation(np.unique(levels)):
                group = lines[chosen[levels == level]]
                self._canvas.strokes(self._tone, group, width, int(min(level * 24, 250)))
                self._canvas.strokes(self._mask, group, 0.8 * width, 255)


def draw_hair(
    canvas: Canvas, picture: Array, layer: HairLayer, person: Person, light: Light, occlusion: Array | float = 1.0
) -> Array:
    """Light one layer of hair and lay it on the picture."""
    if not layer.mask.any():
        return picture

    # Relief: a dome, thicker where the hair is.
    x = (canvas.x - 0.5) / np.float32(0.36)
    y = (canvas.y - 0.45) / np.float32(0.55)
    dome = np.sqrt(np.maximum(1 - x * x - y * y, 0.05)).astype(np.float32)
    height = canvas.soften(0.24 * dome, 0.02) + 0.07 * canvas.soften(layer.mask, 0.022) + 0.004 * layer.tone

    tone = layer.tone
    albedo = person.hair * (0.20 + 0.80 * tone**1.6)[..., None]
    shine = (0.055 + 0.16 * person.hair.mean()) * tone**2
    lit = shade(albedo, height, light, occlusion, shine, 11.0, (0.25, 0.25, 0.25))
    return mix(picture, lit, layer.mask)


def draw_stubble(
    canvas: Canvas, albedo: Array, style: HairStyle, person: Person, generator: np.random.Generator
) -> Array:
    """Darken the skin where the hair is shaved to a few millimetres."""
    if style.stubble is None:
        return albedo
    region = canvas.fill(style.stubble, 0.010)
    grain = np.clip(0.84 + 0.16 * canvas.noise(generator, 190) + 0.08 * canvas.noise(generator, 60), 0, 1.3)
    # Fair hair hardly shows when it is that short.
    density = style.stubble_density * (1 - 0.75 * min(float(person.hair.mean()) / 0.4, 1))
    alpha = np.clip(density * region * grain, 0, 0.97)
    return mix(albedo, 0.75 * person.hair + 0.06 * person.skin, alpha)
