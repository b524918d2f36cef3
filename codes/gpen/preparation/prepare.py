"""Making a data set from photographs, step by step."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from gpen.data.image_folder import describe_left_out
from gpen.errors import UserError
from gpen.faces.detection import SURE_SCORES
from gpen.preparation.contact_sheet import CONTACT_SHEET, write_contact_sheet
from gpen.preparation.output_folder import OutputFolder
from gpen.preparation.pairs import list_pairs, write_pair
from gpen.preparation.people import compare_splits, describe_people, find_recognizer
from gpen.preparation.photos import explain, list_photos
from gpen.preparation.recipe import write_recipe
from gpen.preparation.selection import REASONS, Entry, list_entries, reject
from gpen.preparation.settings import PreparationSettings, digest
from gpen.preparation.splitting import SPLITS, Group, group_photos, split_groups
from gpen.preparation.summary import DATASET, MANIFEST, Summary, describe, write_dataset_file, write_manifest
from gpen.preparation.work import DetectorSource, PhotoRecord, PhotoTask, process_photo, run_single_threaded
from gpen.utils.command_line import spell_command
from gpen.utils.pool import Pool

_QUICK = 128  # pixels, up to which a CPU trains in minutes

ADVICE = 'Run the command again with fewer --workers or a smaller --max_pixels; what is done is kept.'

Say = Callable[[str], None]


def prepare(settings: PreparationSettings, say: Say) -> None:
    """Make the data set, or go on with it where an earlier run was stopped.

    The result depends on the photographs and :meth:`PreparationSettings.deciding` alone.

    Args:
        settings: what to make of which photographs.
        say: gets what the user should read, a line or more at once.

    Raises:
        UserError: no usable photographs, faces of one person alone, a folder that holds something else, a full disk;
            what is done is kept for the next run.
    """
    left_out: dict[str, str] = {}
    photos, skipped = list_photos(settings.input, left_out)
    for sentence in describe_left_out(left_out):
        say(sentence)
    _check_places(settings)
    groups = group_photos((photo.key for photo in photos), settings.split_by)

    # What decides the data set: the same identity gives the same bytes.
    identity = {
        'settings': settings.deciding(),
        'photographs': {'count': len(photos), 'digest': digest([photo.identity for photo in photos])},
    }
    output = OutputFolder(settings.output, identity)

    with output.lock():
        if output.is_finished():
            say(f'The data set is already there: {settings.output}')
            _end(settings, say)
            return

        detector = None if settings.aligned else find_detector(settings, say)
        if settings.min_score is None and detector is not None:
            settings = replace(settings, min_score=SURE_SCORES.get(detector.name))
        recognizer = find_recognizer(settings, say)
        with Pool(settings.workers, settings.ray, advice=ADVICE) as pool:
            tasks = [PhotoTask(photo, output.photos, settings, detector) for photo in photos]
            with closing(pool.run(partial(run_single_threaded, process_photo), tasks, 'photos')) as results:
                records = sorted(results, key=lambda record: record.key)

            summary = _choose(records, skipped, groups, settings, detector)
            alike = None if recognizer is None else compare_splits(summary.entries, recognizer, pool)
            psnr = _make(output, summary, settings, identity, pool)
        say(describe(summary, psnr, grouped=settings.split_by is not None))
        if settings.split_by is None:
            say(describe_people(alike, summary.pairs['val']))
        _end(settings, say)


def _end(settings: PreparationSettings, say: Say) -> None:
    """Write the recipe, and say what to do next."""
    recipe = write_recipe(settings)
    say(f'\nLook at {settings.output / CONTACT_SHEET}, then train by the recipe that lies beside it:')
    say(f'\n  {spell_command("train", "-opt", recipe, "--auto_resume")}')
    if settings.size > _QUICK and not torch.cuda.is_available():
        say(f'\nThere is no GPU here: a step at {settings.size} pixels may take a CPU a minute. Try --size 64 first.')


def _choose(
    records: Sequence[PhotoRecord],
    skipped: dict[str, str],
    groups: dict[str, Group],
    settings: PreparationSettings,
    detector: DetectorSource | None,
) -> Summary:
    """Decide which faces are kept and in which split they are; return the summary."""
    usable = [record for record in records if record.skipped is None]
    skipped = skipped | {record.key: record.skipped for record in records if record.skipped is not None}
    entries = list_entries(usable)
    reject(entries, settings)
    _check_any(settings, usable, entries, skipped)

    for entry in entries:
        entry.group = groups[entry.key]
    split_groups(entries, settings.val_share, settings.seed, settings.split_by)

    faceless = [record.key for record in usable if not record.faces]
    return Summary(entries, len(usable), skipped, faceless, None if detector is None else detector.name)


def _make(
    output: OutputFolder, summary: Summary, settings: PreparationSettings, identity: Mapping[str, Any], pool: Pool
) -> dict[str, float]:
    """Write pairs, manifest, contact sheet and record; return the mean PSNR of each split, dB."""
    stage = output.open_stage(summary.detector, [[entry.name, entry.split] for entry in summary.entries])
    pairs = list_pairs(stage, summary.entries, settings.degradation, settings.seed)
    with closing(pool.run(partial(run_single_threaded, write_pair), list(pairs.values()), 'pairs')) as results:
        values = dict(results)

    psnr = {
        split: float(np.mean([values[pair.lq] for pair in pairs.values() if pair.split == split])) for split in SPLITS
    }

    write_manifest(stage / MANIFEST, summary.entries, settings.seed)
    write_contact_sheet(stage / CONTACT_SHEET, summary.entries, pairs)
    write_dataset_file(stage / DATASET, summary, psnr, identity)  # last: it says that the data set is whole
    output.publish(stage)
    return psnr


def find_detector(settings: PreparationSettings, say: Say) -> DetectorSource:
    """Choose what finds the faces, and say why.

    Raises:
        UserError: the detector cannot be had.
    """
    from gpen.faces.detection import build_detector, choose_detector

    name, reason = choose_detector(settings.detector, settings.weights)
    say(reason)
    return DetectorSource(build_detector, name, settings.weights, settings.detectable)


def _check_places(settings: PreparationSettings) -> None:
    """Raise UserError if the data set would lie among the photographs, and be read as such by a later run."""
    if settings.output.resolve().is_relative_to(settings.input.resolve()):
        raise UserError(f'--output {settings.output} lies in --input {settings.input}. Choose a folder outside of it.')


def _check_any(
    settings: PreparationSettings, usable: Sequence[PhotoRecord], entries: Sequence[Entry], skipped: dict[str, str]
) -> None:
    """Raise UserError if there is nothing to make a data set of."""
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
