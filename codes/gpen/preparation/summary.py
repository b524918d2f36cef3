"""The records of a data set: a table of all faces, how it was made, and a summary for the screen."""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import gpen
from gpen.data.landmarks import COLUMNS, POINTS
from gpen.preparation.pairs import degradation_seed
from gpen.preparation.selection import REASONS, Entry
from gpen.preparation.splitting import SPLITS
from gpen.utils.files import atomic_path, write_text
from gpen.utils.text import printable

MANIFEST = 'manifest.csv'
DATASET = 'dataset.json'
_LISTED = 20  # photographs that the screen shows


@dataclass(frozen=True)
class Summary:
    """What a run found and kept.

    Attributes:
        entries: all faces.
        read: how many photographs could be used.
        skipped: the other ones and why.
        faceless: photographs without any face.
        detector: what found the faces, or None.
    """

    entries: Sequence[Entry]
    read: int
    skipped: Mapping[str, str]
    faceless: Sequence[str]
    detector: str | None

    @property
    def rejected(self) -> dict[str, int]:
        """How many faces each reason cost, in the order of the filters."""
        counts = Counter(entry.reason for entry in self.entries)
        return {reason: counts[reason] for reason in REASONS if counts[reason]}

    @property
    def pairs(self) -> dict[str, int]:
        """The number of pairs of each split."""
        return {split: sum(entry.split == split for entry in self.entries) for split in SPLITS}

    @property
    def groups(self) -> dict[str, int]:
        """The number of people (or photographs) of each split."""
        return {split: len({entry.group for entry in self.entries if entry.split == split}) for split in SPLITS}

    @property
    def enlarged(self) -> int:
        """How many of the kept faces were smaller in the photograph than they are now."""
        return sum(entry.split is not None and (entry.face.scale or 0) > 1 for entry in self.entries)


def write_manifest(path: Path, entries: Sequence[Entry], seed: int) -> None:
    """Write a line for every face, kept or not: UTF-8, a header, quotes where needed.

    A file name that is not UTF-8 is written as the bytes it has; Python reads the table back with
    ``open(path, newline='', encoding='utf-8', errors='surrogateescape')``.
    """
    rows = [_to_row(entry, seed) for entry in entries]
    with (
        atomic_path(path) as temporary,
        temporary.open('w', encoding='utf-8', errors='surrogateescape', newline='') as stream,
    ):
        table = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator='\n')
        table.writeheader()
        table.writerows(rows)


def _to_row(entry: Entry, seed: int) -> dict[str, Any]:
    """Return one line of the manifest; what does not apply is empty."""
    face = entry.face
    points = [value for point in face.landmarks or [(None, None)] * len(POINTS) for value in point]

    return {
        'name': entry.name,
        'split': entry.split,
        'reason': entry.reason,
        'duplicate_of': entry.duplicate_of,
        'source': entry.key,
        'face': entry.index,
        'group': '_'.join(entry.group),
        **dict(zip(('left', 'top', 'right', 'bottom'), face.box, strict=True)),
        **dict(zip(COLUMNS, points, strict=True)),
        'score': face.score,
        'sharpness': face.sharpness,
        **dict(zip(('yaw', 'pitch', 'roll'), face.pose or (None, None, None), strict=True)),
        'padding': face.padding,
        'scale': face.scale,
        'fingerprint': None if face.fingerprint is None else f'{face.fingerprint:016x}',
        'degradation_seed': degradation_seed(seed, entry) if entry.split is not None else None,
    }


def write_dataset_file(path: Path, summary: Summary, psnr: Mapping[str, float], identity: Mapping[str, Any]) -> None:
    """Write the settings (``identity``), counts, mean PSNR of each split in dB, and versions as JSON."""
    photographs = {'read': summary.read, 'skipped': len(summary.skipped), 'without_faces': len(summary.faceless)}
    faces = {'found': len(summary.entries), 'rejected': summary.rejected, 'enlarged': summary.enlarged}

    content = {
        **identity,
        'detector': summary.detector,
        'counts': {
            'photographs': photographs,
            'faces': faces,
            'pairs': summary.pairs,
            'groups': summary.groups,
        },
        'psnr': dict(psnr),
        'skipped': [{'source': key, 'reason': reason} for key, reason in sorted(summary.skipped.items())],
        'without_faces': sorted(summary.faceless),
        'versions': {'gpen': gpen.__version__, 'opencv': cv2.__version__, 'numpy': np.__version__},
    }
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + '\n')


def describe(summary: Summary, psnr: Mapping[str, float], grouped: bool) -> str:
    """Return the summary for the screen: what was read, found, left out and written."""
    lines = [f'Photographs: {summary.read} read, {len(summary.skipped)} skipped']
    lines += _list('  skipped', [f'{printable(key)}: {reason}' for key, reason in sorted(summary.skipped.items())])
    lines += _list('  without a face', [printable(key) for key in sorted(summary.faceless)])

    kept = sum(summary.pairs.values())
    lines += [f'Faces: {len(summary.entries)} found, {kept} kept']
    lines += [f'  {reason}: {count} ({REASONS[reason]})' for reason, count in summary.rejected.items()]

    if summary.enlarged:
        lines.append(f'  enlarged: {summary.enlarged} of those kept, whose sharp side is not quite sharp')
    unit = ('person', 'people') if grouped else ('photograph', 'photographs')
    for split in SPLITS:
        lines.append(
            f'{split}: {_count(summary.pairs[split], "pair", "pairs")} of {_count(summary.groups[split], *unit)}, '
            f'mean PSNR of the blurry ones {psnr[split]:.2f} dB'
        )

    return '\n'.join(lines)


def _count(number: int, one: str, several: str) -> str:
    return f'{number} {one if number == 1 else several}'


def _list(title: str, items: Sequence[str]) -> list[str]:
    more = [f'{title}: ... and {len(items) - _LISTED} more, see {DATASET}'] if len(items) > _LISTED else []
    return [f'{title}: {item}' for item in items[:_LISTED]] + more
