"""Programs that run ONNX files, emulated: how FaceFusion 3.8 and ReActor 0.7 cut a face out and have it restored."""

from typing import Any

import cv2
import numpy as np

# Eyes, nose and corners of the mouth as both programs place them, in shares of the side: those of FFHQ's faces.
TEMPLATE = np.array([[0.3769, 0.4686], [0.6229, 0.4691], [0.5012, 0.6133], [0.3931, 0.7254], [0.6115, 0.7249]])


def cut_as_facefusion(photograph: np.ndarray, landmarks: np.ndarray, size: int) -> np.ndarray:
    """Cut a face out of a photograph in BGR, uint8."""
    matrix, _ = cv2.estimateAffinePartial2D(landmarks, TEMPLATE * size, method=cv2.RANSAC, ransacReprojThreshold=100)
    return cv2.warpAffine(photograph, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE, flags=cv2.INTER_AREA)


def cut_as_reactor(photograph: np.ndarray, landmarks: np.ndarray, size: int) -> np.ndarray:
    """Cut a face out of a photograph that came as float32, RGB, [0, 1]; outside it there is grey."""
    image = 255.0 * (photograph[..., ::-1] / np.float32(255))
    matrix, _ = cv2.estimateAffinePartial2D(landmarks, TEMPLATE * size, method=cv2.LMEDS)
    border = {'borderMode': cv2.BORDER_CONSTANT, 'borderValue': (135, 133, 132)}
    return cv2.warpAffine(image[..., ::-1], matrix, (size, size), **border)


def restore_as_tools(session: Any, face: np.ndarray) -> np.ndarray:
    """Restore a face in BGR, [0, 255], by an onnxruntime.InferenceSession, as both do: size x size x 3, uint8.

    Inputs are fed by two names; what another name asks for is missing.  The first output is taken.
    """
    image = (face[:, :, ::-1] / 255.0 - 0.5) / 0.5
    image = np.expand_dims(image.transpose(2, 0, 1), 0).astype(np.float32)
    known = {'input': image, 'weight': np.array([0.5], np.double)}
    restored = session.run(
        None, {given.name: known[given.name] for given in session.get_inputs() if given.name in known}
    )
    image = (np.clip(restored[0][0], -1, 1) + 1) / 2
    return (image.transpose(1, 2, 0) * 255.0).round().astype(np.uint8)[:, :, ::-1]
