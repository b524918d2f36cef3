"""The whole way from photographs to a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np

from gpen.errors import UserError
from gpen.preparation.contact_sheet import CONTACT_SHEET, write_contact_sheet
from gpen.preparation.output import OutputFolder
from gpen.preparation.pairs import PairTask, list_pairs, write_pair
from gpen.preparation.parallel import run_tasks
from gpen.preparation.photos import Photo, explain, list_photos
from gpen.preparation.report import DATASET, MANIFEST, Report, summarize, write_dataset_file, write_manifest
from gpen.preparation.selection import REASONS, Entry, list_entries, reject
from gpen.preparation.settings import Settings, digest
from gpen.preparation.splitting import SPLITS, group_photos, split_groups
from gpen.preparation.work import DetectorSource, PhotoRecord, PhotoTask, process_photo

Say = Callable[[str], None]


def prepare(settings: Settings, say: Say) -> None:
    """Make the data set, or go on with it where an earlier run was stopped.

    The result depends on the photographs and :meth:`Settings.deciding` alone.

    Args:
        settings: what to make of which photographs.
        say: gets what the user should read, a line or more at once.

    Raises:
        UserError: no usable photographs, faces of one person alone, a folder that holds something else, a full disk;
            what is done is kept for the next run.
    """
    photos, skipped = list_photos(settings.input)
    _check_places(settings)
    groups = group_photos((photo.key for photo in photos), settings.split_by)
    identity = {
        'settings': settings.deciding(),
        'photographs': {'count': len(photos), 'digest': digest([photo.identity for photo in photos])},
    }
    output = OutputFolder(settings.output, identity)
    with output.lock():
        if output.is_finished():
            say(f'The data set is already there: {settings.output}')
            return
        detector = None if settings.aligned else find_detector(settings, say)
        records = _process(photos, output, settings, detector)
        skipped |= {record.key: record.skipped for record in records if record.skipped is not None}
        usable = [record for record in records if record.skipped is None]
        entries = list_entries(usable)
        reject(entries, settings)
        _check_any(settings, usable, entries, skipped)
        for entry in entries:
            entry.group = groups[entry.key]
        split_groups(entries, settings.val_share, settings.seed, settings.split_by)

        stage = output.open_stage(detector and detector.name, [[entry.name, entry.split] for entry in entries])
        pairs = list_pairs(stage, entries, settings.degradation, settings.seed)
        psnr = _write_pairs(pairs, entries, settings)
        faceless = [record.key for record in usable if not record.faces]
        report = Report(entries, len(usable), skipped, faceless, psnr, detector and detector.name)
        write_manifest(stage / MANIFEST, entries, settings.seed)
        write_contact_sheet(stage / CONTACT_SHEET, entries, pairs)
        write_dataset_file(stage / DATASET, report, identity)  # last: it says that the data set is whole
        output.publish(stage)
        say(summarize(report, settings.output, grouped=settings.split_by is not None))


def find_detector(settings: Settings, say: Say) -> DetectorSource:
    """Choose what finds the faces, and say why.

    Raises:
        UserError: the detector cannot be had.
    """
    from gpen.faces.detection import build_detector, choose_detector

    name, reason = choose_detector(settings.detector, settings.weights)
    say(reason)
    return DetectorSource(build_detector, name, settings.weights, settings.detectable)


def _process(
    photos: Sequence[Photo], output: OutputFolder, settings: Settings, detector: DetectorSource | None
) -> list[PhotoRecord]:
    """Return the records of all photographs, by key."""
    tasks = [PhotoTask(photo, output.photos, settings, detector) for photo in photos]
    with closing(run_tasks(process_photo, tasks, settings.workers, settings.ray, 'photos')) as results:
        return sorted(results, key=lambda record: record.key)


def _write_pairs(pairs: dict[str, PairTask], entries: Sequence[Entry], settings: Settings) -> dict[str, float]:
    """Write all pairs; return the mean PSNR of each split, dB."""
    with closing(run_tasks(write_pair, list(pairs.values()), settings.workers, settings.ray, 'pairs')) as results:
        values = dict(results)
    return {
        split: float(np.mean([values[pairs[entry.name].blurry] for entry in entries if entry.split == split]))
        for split in SPLITS
    }


def _check_places(settings: Settings) -> None:
    """Raise UserError where the data set would lie among the photographs, and be taken for some later."""
    if settings.output.resolve().is_relative_to(settings.input.resolve()):
        raise UserError(f'--output {settings.output} lies in --input {settings.input}. Choose a folder outside of it.')


def _check_any(
    settings: Settings, usable: Sequence[PhotoRecord], entries: Sequence[Entry], skipped: dict[str, str]
) -> None:
    """Raise UserError where nothing is left to make a data set of."""
    if not usable:
        hint = ' Align and crop them first, or leave --aligned away.' if settings.aligned else ''
        raise UserError(f'None of the photographs in {settings.input} can be used{explain(skipped)}.{hint}')
    if not entries:
        raise UserError(
            f'No face was found in the {len(usable)} photographs in {settings.input}. Try another --detector or a '
            'smaller --min_face; images of aligned faces need no detection: --aligned.'
        )
    if all(entry.reason is not None for entry in entries):
        counts = Counter(entry.reason for entry in entries)
        causes = ', '.join(f'{counts[reason]} {reason} ({REASONS[reason]})' for reason in REASONS if counts[reason])
        raise UserError(f'None of the {len(entries)} faces is kept: {causes}. Loosen one of these arguments.')
