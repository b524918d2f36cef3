"""Folders of pairs that are complete or not there.

A paired set is ``FOLDER/{train,val}/{sharp,blurry}/NAME.png``.  A small JSON file with its settings is written last, so
a folder that has it is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpen.errors import UserError
from gpen.utils.files import write_text

Image = NDArray[np.float32]

SPLITS = ('train', 'val')
KINDS = ('sharp', 'blurry')


class PairedSet:
    """A folder of pairs that is being made.

    Args:
        folder: where it goes.
        manifest: name of the JSON file that says the set is whole.
        settings: what the set depends on; the content of that file.
        names: the names (without suffix) of the pairs of each split.
    """

    def __init__(
        self, folder: Path, manifest: str, settings: Mapping[str, Any], names: Mapping[str, Sequence[str]]
    ) -> None:
        self.folder = folder
        self._manifest = folder / manifest
        self._settings = dict(settings)
        self._names = names
        self._psnr: dict[str, list[float]] = {split: [] for split in SPLITS}

    def is_complete(self) -> bool:
        """Say whether exactly this set is there already.

        Raises:
            UserError: the folder holds something else that must not get mixed with it.
        """
        wanted = {self.path(split, kind, name) for split in SPLITS for kind in KINDS for name in self._names[split]}
        present = {path for split in SPLITS for kind in KINDS for path in (self.folder / split / kind).glob('*')}
        advice = 'Choose another --output, or delete that folder.'
        if self._manifest.is_file() and self._read_manifest() != json.loads(json.dumps(self._settings)):
            raise UserError(f'{self.folder} holds a data set that was made with other settings. {advice}')
        # A killed run leaves temporary files, whose names start with a dot.
        strangers = sorted(path for path in present - wanted if not path.name.startswith('.'))
        if strangers:
            raise UserError(
                f'{self.folder} holds files that do not belong to this data set, such as {strangers[0]}. {advice}'
            )
        return self._manifest.is_file() and wanted <= present

    def _read_manifest(self) -> Any:
        try:
            return json.loads(self._manifest.read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return None

    def path(self, split: str, kind: str, name: str) -> Path:
        """Return where one image goes."""
        return self.folder / split / kind / f'{name}.png'

    def write(self, split: str, name: str, sharp: Image, blurry: Image) -> None:
        """Write one pair."""
        from gpen.data.image_io import write_image
        from gpen.preparation.pairs import measure_psnr

        for kind, image in zip(KINDS, (sharp, blurry), strict=True):
            write_image(self.path(split, kind, name), image)
        self._psnr[split].append(measure_psnr(blurry, sharp))

    def finish(self) -> None:
        """Mark the set as whole."""
        write_text(self._manifest, json.dumps(self._settings, indent=2) + '\n')

    def mean_psnr(self, split: str) -> float:
        """Return the mean PSNR of the blurry images written so far against the sharp ones, dB."""
        return float(np.mean(self._psnr[split])) if self._psnr[split] else float('nan')
