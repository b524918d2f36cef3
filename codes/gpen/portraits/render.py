"""A whole portrait, from the background to the glasses."""

import cv2
import numpy as np

from gpen.portraits import eyes as eyes_module
from gpen.portraits import head
from gpen.portraits import mouth as mouth_module
from gpen.portraits.canvas import Array, Canvas, Light, Pose, shade, to_srgb
from gpen.portraits.extras import Beard, Glasses
from gpen.portraits.hair import HairLayer, HairStyle, draw_hair, draw_stubble
from gpen.portraits.hairstyles import sample_style
from gpen.portraits.person import Person, Shape
from gpen.portraits.scene import draw_background, draw_clothes

# Small portraits are drawn four times larger; large ones need less, and time grows with the square.
_SMALL = 128


def render_portrait(generator: np.random.Generator, size: int) -> Array:
    """Return a portrait of a person who does not exist.

    Args:
        generator: decides everything; the same state gives the same person at every size.
        size: side in pixels.

    Returns:
        float32 RGB, size x size x 3, in [-1, 1].
    """
    # Who it is, and how the picture is taken.
    pose, person, light = Pose.sample(generator), Person.sample(generator), Light.sample(generator)
    canvas = Canvas(size * (4 if size <= _SMALL else 2), pose)
    shape = Shape.sample(generator, person)
    style = sample_style(generator, shape, person)

    # From the back to the front.
    picture = draw_background(canvas, generator)
    back = HairLayer(canvas, generator, style, style.back)
    front = HairLayer(canvas, generator, style, style.front)
    head_shadow = 1 - 0.5 * canvas.soften(canvas.fill(shape.polygon()), 0.04)
    picture = draw_hair(canvas, picture, back, person, light, head_shadow)
    picture = head.draw_neck(canvas, picture, person, shape, light, generator)
    picture = draw_clothes(canvas, picture, person, light, generator)
    picture = head.draw_ears(canvas, picture, person, shape, light)
    picture = _draw_face(canvas, picture, person, shape, light, style, front.mask, generator)
    picture = draw_hair(canvas, picture, front, person, light)

    small = cv2.resize(_grade(picture, generator), (size, size), interpolation=cv2.INTER_AREA)
    return (2 * np.clip(small, 0, 1) - 1).astype(np.float32)


def _draw_face(
    canvas: Canvas,
    picture: Array,
    person: Person,
    shape: Shape,
    light: Light,
    style: HairStyle,
    hair: Array,
    generator: np.random.Generator,
) -> Array:
    """Paint the skin, light it, then paint what does not shine like skin on it."""
    marks = head.SkinMarks.sample(generator, person)
    mouth = mouth_module.Mouth.sample(generator, person)
    smile = max(mouth.smile, 0.0)
    eyes = eyes_module.Eyes.sample(generator, person, smile)
    beard, glasses = Beard.sample(generator, person), Glasses.sample(generator, person)

    relief = head.relief(canvas, shape, marks, smile) + mouth_module.lips_relief(canvas, mouth)
    albedo = head.skin_color(canvas, generator, person, marks)
    albedo = draw_stubble(canvas, albedo, style, person, generator)
    albedo = eyes_module.paint_lids(canvas, albedo, person, eyes)
    region = None
    if beard:
        region = beard.region(canvas, shape, mouth.y, mouth.half_width)
        albedo = beard.paint_shadow(canvas, albedo, region, person, generator)
    albedo, lip_gloss = mouth_module.paint_lips(canvas, albedo, person, mouth, generator)
    albedo = albedo * (1 - 0.88 * head.nostrils(canvas, shape))[..., None]

    grain = 0.00008 * canvas.noise(generator, 150) + 0.00014 * canvas.noise(generator, 60)
    hair_shadow = canvas.soften(canvas.shifted(hair, -0.026 * light.direction[0], 0.020), 0.013)
    open_sky = head.occlusion(canvas, shape, light) * (1 - 0.42 * hair_shadow)
    t_zone = 0.6 + 0.6 * canvas.bump(0.5, 0.50, 0.05, 0.14)
    lit = shade(albedo, relief + grain, light, open_sky, marks.gloss * t_zone + lip_gloss, 16.0, head.SKIN_WRAP)

    mask = canvas.fill(shape.polygon(), 0.0016)
    picture = picture + (lit - picture) * mask[..., None]
    picture = mouth_module.draw_opening(canvas, picture, mouth, light)
    picture = eyes_module.draw_eyes(canvas, picture, person, eyes, light, generator)
    picture = eyes_module.draw_brows(canvas, picture, person, eyes, generator)
    if beard and region is not None:
        picture = beard.draw(canvas, picture, region, relief, person, light, generator)
    return glasses.draw(canvas, picture, shape, light) if glasses else picture


def _grade(picture: Array, generator: np.random.Generator) -> Array:
    """Expose and grade the picture like a photograph; returns display values."""
    exposure = generator.uniform(0.92, 1.12)
    tint = generator.normal(1, 0.015, 3).astype(np.float32)
    image = to_srgb(picture * (exposure * tint))
    contrast = generator.uniform(0.0, 0.35)
    return image + np.float32(contrast) * (image - 0.5) * image * (1 - image) * 2
