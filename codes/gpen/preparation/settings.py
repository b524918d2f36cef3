"""What a data set is made of and how: the arguments of ``scripts/prepare_dataset.py``."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_DETECTABLE = 40  # pixels; smaller faces are looked for only where they are wanted
# What may differ between two runs that make the same data set.
_FREE = ('input', 'output', 'weights', 'workers', 'ray')


@dataclass(frozen=True)
class PreparationSettings:
    """How to make a data set.

    Attributes:
        input: folder of photographs, with its sub-folders.
        output: folder of the data set.
        size: side of the images, pixels.
        aligned: the images are aligned, square faces; nothing is detected.
        detector: ``auto``, ``yunet``, ``retinaface`` or ``mtcnn``.
        weights: folder of the detector's weights; None: where they are by default.
        largest_only: use the largest face of a photograph alone.
        min_face: the shorter side of a face's box, pixels of the photograph; of aligned images, their side.
        min_score: the detector's certainty, 0 to 1; None: what suits the detector.
        min_sharpness: see :func:`gpen.faces.quality.sharpness`.
        max_turn: yaw and pitch, degrees.
        max_padding: share of the aligned face that lies outside of the photograph, 0 to 1.
        duplicates: two faces whose 64-bit fingerprints differ in at most so many bits are one; -1: keep all.
        val_share: share of the groups to validate on, 0 to 1.
        split_by: regular expression, searched in a photograph's path below ``input``; its groups name the person.
        degradation: what makes the LQ image from the GT, as in an option file.
        seed: decides the split and the degradation.
        max_pixels: larger photographs are left out.
        workers: processes; with ``ray``, 0 means all of the cluster.
        ray: address of a Ray cluster; None: this machine.
    """

    input: Path
    output: Path
    degradation: Any
    min_face: int
    size: int = 512
    aligned: bool = False
    detector: Literal['auto', 'yunet', 'retinaface', 'mtcnn'] = 'auto'
    weights: Path | None = None
    largest_only: bool = False
    min_score: float | None = None
    min_sharpness: float = 10.0
    max_turn: float = 60.0
    max_padding: float = 0.3
    duplicates: int = 4
    val_share: float = 0.1
    split_by: str | None = None
    seed: int = 10
    max_pixels: int = 120_000_000
    workers: int = 1
    ray: str | None = None

    @property
    def detectable(self) -> int:
        """The smallest face that the detector has to find, pixels."""
        return min(_DETECTABLE, self.min_face)

    def deciding(self) -> dict[str, Any]:
        """Return the settings that the data set depends on, as JSON has them; no path of this machine is."""
        chosen = {name: value for name, value in vars(self).items() if name not in _FREE}
        return dict(json.loads(json.dumps(chosen)))


def digest(*parts: Any) -> str:
    """Return 32 hexadecimal digits that depend on all of ``parts`` (what JSON can hold)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
