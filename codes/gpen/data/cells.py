"""Cells of picture sheets: pictures at a given width, with text below."""

from collections.abc import Sequence

import cv2
import numpy as np

from gpen.data.image_io import resize, to_uint8

GAP = 8
LINE = 18  # height of a line of text
SCALE = 0.42
WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (110, 110, 110)


def to_cell(image: np.ndarray, width: int) -> np.ndarray:
    """Return a square image in [-1, 1] as width x width x 3, uint8; a smaller one with its pixels as squares."""
    if len(image) > width:
        return to_uint8(resize(image, width))
    return cv2.resize(to_uint8(image), (width, width), interpolation=cv2.INTER_NEAREST)


def add_caption(picture: np.ndarray, lines: Sequence[str], height: int) -> np.ndarray:
    """Return a picture, H x W x 3, uint8, with lines of text below, and a gap to the right and below.

    Args:
        picture: the picture.
        lines: of text, the first one black and the others grey.
        height: of the text, in lines; the rest stays white.
    """
    side, width = picture.shape[:2]
    cell = np.full((side + LINE * height + 2 * GAP, width + GAP, 3), WHITE, np.uint8)
    cell[:side, :width] = picture
    for number, line in enumerate(lines):
        write_text(cell[:, :width], line, (0, side + LINE * (number + 1) - 3), GREY if number else BLACK)
    return cell


def draw_heading(text: str, width: int) -> np.ndarray:
    """Return a line of text above a sheet of ``width``."""
    heading = np.full((LINE + GAP, width, 3), WHITE, np.uint8)
    write_text(heading, text, (0, LINE - 4))
    return heading


def write_text(picture: np.ndarray, text: str, place: tuple[int, int], colour: tuple[int, int, int] = BLACK) -> None:
    """Write a line into a picture, H x W x 3, uint8, in place; what does not fit is cut off.

    Args:
        picture: to write into.
        text: what OpenCV cannot draw becomes ``?``.
        place: x and y of the lower left corner.
        colour: red, green, blue.
    """
    plain = ''.join(character if ' ' <= character <= '~' else '?' for character in text)
    while plain and place[0] + width_of(plain) > picture.shape[1]:
        plain = plain[:-1]
    cv2.putText(picture, plain, place, cv2.FONT_HERSHEY_SIMPLEX, SCALE, colour, 1, cv2.LINE_AA)


def width_of(text: str) -> int:
    """Return the width of a text in pixels."""
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, SCALE, 1)[0][0])
