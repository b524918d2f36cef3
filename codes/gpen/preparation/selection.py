"""Which faces are kept: filters, near duplicates, and names that are theirs alone."""

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gpen.preparation.settings import PreparationSettings
from gpen.preparation.work import NOT_LARGEST, TOO_SMALL, FoundFace, PhotoRecord

LOW_SCORE = 'low score'
TOO_TURNED = 'too turned'
TOO_PADDED = 'too much padding'
TOO_BLURRED = 'too blurred'
DUPLICATE = 'near duplicate'
REASONS = {
    TOO_SMALL: '--min_face',
    NOT_LARGEST: '--faces',
    LOW_SCORE: '--min_score',
    TOO_TURNED: '--max_turn',
    TOO_PADDED: '--max_padding',
    TOO_BLURRED: '--min_sharpness',
    DUPLICATE: '--duplicates',
}
"""Why a face is not kept, in the order in which it is asked, and the argument that decides it."""

_NAME_BYTES = 160  # file systems take 255, and temporary files have longer names
_DIGEST = re.compile(r'-[0-9a-f]{16}(_\d+)?$', re.IGNORECASE)


@dataclass
class Entry:
    """A face on its way into the data set: a line of the manifest.

    Attributes:
        key: the photograph's.
        index: the face's number in it.
        image: file of the aligned face, where it was aligned.
        name: of its pair of files, without suffix.
        reason: why it is not kept; one of :data:`REASONS`.
        duplicate_of: name of the face that is kept in its stead.
        group: what names the person.
        split: ``train`` or ``val``.
    """

    key: str
    index: int
    face: FoundFace
    image: Path | None
    name: str = ''
    reason: str | None = None
    duplicate_of: str | None = None
    group: tuple[str, ...] = ()
    split: str | None = None


def list_entries(records: Iterable[PhotoRecord]) -> list[Entry]:
    """Return all faces with their names, by photograph and number; the order of ``records`` does not matter."""
    ordered = sorted(records, key=lambda record: record.key)
    names = name_faces({record.key: len(record.faces) for record in ordered})
    return [
        Entry(record.key, index, face, image, names[record.key][index])
        for record in ordered
        for index, (face, image) in enumerate(zip(record.faces, record.images, strict=True))
    ]


def name_faces(counts: dict[str, int]) -> dict[str, list[str]]:
    """Return the names of each photograph's faces, each usable as a file name and there once.

    The path with ``_`` for what is no letter, digit, ``-`` or ``.``, without its suffix, and the face's number where a
    photograph has several.  Where two photographs would share a name, also in capitals only, both get 16 digits that
    depend on their path.
    """
    stems = {key: _simplify(key) for key in counts}
    owners: dict[str, set[str]] = defaultdict(set)
    for key, count in counts.items():
        for name in _number(stems[key], count):
            owners[name.casefold()].add(key)
    shared = {key for keys in owners.values() if len(keys) > 1 for key in keys}
    # A file that is named like a digest could be taken for one.
    shared |= {key for key, stem in stems.items() if _DIGEST.search(stem)}
    return {
        key: _number(f'{stems[key]}-{_hash(key)[:16]}' if key in shared else stems[key], count)
        for key, count in counts.items()
    }


def reject(entries: Sequence[Entry], settings: PreparationSettings) -> None:
    """Say of each face that is not kept why: the first of :data:`REASONS` that applies."""
    for entry in entries:
        entry.reason = entry.face.problem or _find_fault(entry.face, settings)
    mark_duplicates([entry for entry in entries if entry.reason is None], settings.duplicates)


def mark_duplicates(entries: Sequence[Entry], bits: int) -> None:
    """Of faces whose fingerprints differ in at most ``bits`` bits keep the sharpest, or the first by name.

    A face that is like a kept one is a duplicate of it; one that is like duplicates alone is none, so that a row of
    pictures that change slowly is thinned out and not lost.  With ``bits`` below 0 all are kept.
    """
    if bits < 0:
        return

    matcher = cv2.BFMatcher(cv2.NORM_HAMMING)
    kept: list[Entry] = []
    codes = np.empty((len(entries), 1), np.uint64)  # the fingerprints of those that are kept
    for entry in sorted(entries, key=lambda entry: (-(entry.face.sharpness or 0.0), entry.name)):
        codes[len(kept)] = entry.face.fingerprint or 0
        known = codes.view(np.uint8)  # N x 8
        found = matcher.radiusMatch(known[[len(kept)]], known[: len(kept)], bits + 0.5)  # the limit is a float
        near = [(match.distance, kept[match.trainIdx].name) for matches in found for match in matches]
        if near:
            entry.reason, entry.duplicate_of = DUPLICATE, min(near)[1]
        else:
            kept.append(entry)


def stable_number(key: str, index: int) -> int:
    """Return a 63-bit number of a face that depends on its photograph's path and its number in it alone."""
    return int(_hash(f'{key}\0{index}')[:16], 16) >> 1


def _find_fault(face: FoundFace, settings: PreparationSettings) -> str | None:
    if min(face.box[2] - face.box[0], face.box[3] - face.box[1]) < settings.min_face:
        return TOO_SMALL
    if face.score is not None and settings.min_score is not None and face.score < settings.min_score:
        return LOW_SCORE
    if face.pose is not None and max(abs(face.pose[0]), abs(face.pose[1])) > settings.max_turn:
        return TOO_TURNED
    if face.padding is not None and face.padding > settings.max_padding:
        return TOO_PADDED
    if face.sharpness is not None and face.sharpness < settings.min_sharpness:
        return TOO_BLURRED
    return None


def _simplify(key: str) -> str:
    stem = key.rpartition('.')[0]
    plain = re.sub(r'[^\w.-]+', '_', unicodedata.normalize('NFC', stem)).lstrip('.-')
    short = plain.encode()[:_NAME_BYTES].decode(errors='ignore')
    return short or 'photo'


def _number(stem: str, count: int) -> list[str]:
    return [stem] if count == 1 else [f'{stem}_{index}' for index in range(count)]


def _hash(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()
