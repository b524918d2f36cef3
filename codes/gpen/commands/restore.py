"""``gpen-restore`` / ``python codes/restore.py``: restore the faces in photographs and films."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpen.commands._arguments import ArgumentParser, add_color, add_detector, add_model, within
from gpen.commands._run import run_command
from gpen.utils.text import count_things, printable

if TYPE_CHECKING:
    import torch

    from gpen.restoration.base import Restorer
    from gpen.restoration.folder import Outcome, Progress, Targets
    from gpen.restoration.photograph import PhotographRestorer, Verdict

SHOWN = 5  # names in a message
_MIN_FACE = 32  # pixels
# Options for whole photographs, which --aligned excludes.
_WHOLE = (
    'only_center',
    'upscale',
    'background_model',
    'mask',
    'large_faces',
    'color',
    'detector',
    'weights',
    'min_face',
    'save_faces',
    'min_quality',
    'keep_identity',
)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments; those of :data:`_WHOLE` are None where they were not given."""
    parser = ArgumentParser(
        description='Restore every face in photographs and films and put it back. '
        "The network's size and width are read off its file.",
    )
    # What is restored, where it goes, and how strongly.
    add_model(parser, 'weights of a GPEN generator, an ONNX file')
    parser.add_argument('--input', required=True, metavar='PATH', help='a photograph or film, or a folder of them')
    parser.add_argument('--output', required=True, metavar='DIR', help='where restored photographs and films go')
    parser.add_argument('--aligned', action='store_true', help='the images are aligned, square faces: detect nothing')
    parser.add_argument(
        '--strength', type=within(float, 0, 1), default=1.0, metavar='S', help='0: as it was, 1: as restored (1)'
    )
    parser.add_argument(
        '--format', choices=('png', 'jpg', 'webp', 'tif'), default='png', help='of results (png); not of films'
    )
    parser.add_argument('--skip_existing', action='store_true', help='leave out what has its result already')
    parser.add_argument(
        '--max_pixels', type=within(int, 1, 10**10), metavar='N', help='larger images are refused (178,956,970)'
    )
    _add_whole(parser.add_argument_group('whole photographs'))

    group = parser.add_argument_group('where and how it runs')
    group.add_argument('--batch_size', type=within(int, 1, 1024), default=4, metavar='N', help='faces at a time (4)')
    group.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')
    group.add_argument(
        '--precision', choices=('fp32', 'bf16', 'fp16'), default='fp32', help='of the network; not for ONNX (fp32)'
    )
    return parser.parse_args(arguments)


def _add_whole(group: argparse._ArgumentGroup) -> None:
    """Add the options that need whole photographs; without a default, so that it shows which were given."""
    # Which faces, and the background.
    group.add_argument(
        '--only_center', action='store_const', const=True, help='restore only the face nearest to the middle'
    )
    group.add_argument('--upscale', type=within(int, 1, 8), metavar='N', help='enlarge the photograph N times (1)')
    group.add_argument(
        '--background_model',
        metavar='FILE',
        help='enlarge with a super-resolution network, such as RealESRGAN_x2plus.pth (needs the package spandrel)',
    )

    # What is put back, and in which colours.
    group.add_argument(
        '--mask',
        choices=('feather', 'parse'),
        help='what is put back: the square with soft edges, or the face and hair in it (feather)',
    )
    group.add_argument(
        '--large_faces',
        choices=('detail', 'replace'),
        help="faces larger than the network's size: keep the photograph's own finer detail, or replace it (detail)",
    )
    add_color(group)

    # How faces are found.
    add_detector(group, default=None)
    group.add_argument(
        '--min_face', type=within(int, 1, 4096), metavar='N', help='smallest face, pixels of the photograph (32)'
    )

    # Which faces are left as they were.
    group.add_argument(
        '--min_quality',
        type=within(float, 0, 1),
        metavar='Q',
        help="leave faces whose detector's score is lower as they are, and list all; 0.9 is a good value for YuNet",
    )
    group.add_argument(
        '--keep_identity',
        type=within(float, -1, 1),
        nargs='?',
        const=-1.0,
        metavar='T',
        help='list how alike each face is to itself after restoring (1: the same; ArcFace where its weights are on the '
        'disk, else SFace, downloaded, 39 MB), and leave those below T as they were',
    )
    group.add_argument(
        '--save_faces', action='store_const', const=True, help='also write each face, before and after, to NAME_faces'
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)

    def body() -> int:
        from gpen.errors import UserError

        given = [name for name in _WHOLE if getattr(args, name) is not None]
        if args.aligned and given:
            raise UserError(f'--{given[0]} is for whole photographs and --aligned for cropped faces. Leave one out.')

        from gpen.data.film import has_av, import_av, is_film
        from gpen.data.image_folder import UNREADABLE
        from gpen.restoration.folder import explain_left_out, plan_targets
        from gpen.restoration.loading import load_restorer
        from gpen.utils.device import choose_device, explain_out_of_memory
        from gpen.utils.files import check_folder, expand_user
        from gpen.weights.by_name import find_model

        source, output, left_out = expand_user(args.input), expand_user(args.output), dict[str, str]()
        if is_film(source) and source.is_file() and not args.aligned:
            import_av()  # or say what is missing
        films = has_av() and not args.aligned
        targets = plan_targets(source, output, f'.{args.format}', left_out, films)
        for sentence in explain_left_out(left_out):
            print(sentence)
        wanted = {path: to for path, to in targets.items() if not (args.skip_existing and to.exists())}
        if not wanted:
            print(f'All {len(targets)} results are there: {args.output}')
            return 0

        check_folder(output)  # now, not at the end of the first batch
        device = choose_device(args.device)
        with explain_out_of_memory(f'Lower --batch_size (now {args.batch_size}) or --upscale.'):
            model = find_model(args.model)
            restorer = load_restorer(model, device, args.precision, args.device == 'auto')
            print(f'The network restores {restorer.size} x {restorer.size} faces: {restorer.backend}.')
            outcome = _restore(args, model, restorer, wanted, device)
        status = _tell(args, outcome, len(wanted), len(targets) - len(wanted), restorer.size)
        return status or int(UNREADABLE in left_out.values())

    return run_command(body)


def _restore(
    args: argparse.Namespace, model: Path, restorer: Restorer, targets: Targets, device: torch.device
) -> Outcome:
    from tqdm import tqdm

    from gpen.data.file_check import MAX_PIXELS
    from gpen.data.film import is_film
    from gpen.restoration.folder import Outcome, restore_faces, restore_films, restore_photographs

    max_pixels = args.max_pixels or MAX_PIXELS
    whole = None if args.aligned else _build(args, restorer, device)
    films = {} if whole is None else {path: target for path, target in targets.items() if is_film(path)}
    photos = {path: target for path, target in targets.items() if path not in films}

    outcome = Outcome()
    if photos:
        with tqdm(total=len(photos), unit='image', disable=None) as bar:
            progress: Progress = bar.update
            if whole is None:
                return restore_faces(restorer, photos, args.batch_size, args.strength, max_pixels, progress)
            outcome = restore_photographs(whole, photos, args.strength, bool(args.save_faces), max_pixels, progress)
    if films and whole is not None and not outcome.stopped:
        if args.save_faces:
            print(f'--save_faces is for photographs; the faces of {count_things(len(films), "film")} are not written.')
        restore_films(whole, films, _settings(args, model), outcome, args.strength, max_pixels, _open_bar)
    return outcome


def _open_bar(title: str, frames: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=frames or None, desc=title, unit='frame', disable=None)


def _settings(args: argparse.Namespace, model: Path) -> dict[str, object]:
    """Return what a film that is restored by the file ``model`` depends on, whatever the working directory is."""
    from gpen.restoration.film import stamp
    from gpen.utils.files import expand_user

    # Where memory ran out, a stopped film goes on with a lower --batch_size.
    others = ('input', 'output', 'skip_existing', 'format', 'save_faces', 'max_pixels', 'batch_size', 'mirror')
    given = {name: value for name, value in vars(args).items() if name not in others}
    if args.background_model:
        given['background_model'] = stamp(expand_user(args.background_model))
    if args.weights:
        given['weights'] = args.weights.resolve()
    return {**given, 'model': stamp(model)}


def _build(args: argparse.Namespace, restorer: Restorer, device: torch.device) -> PhotographRestorer:
    from gpen.faces.detection import build_detector, choose_detector
    from gpen.restoration.background import Enlarger, load_enlarger
    from gpen.restoration.photograph import PhotographRestorer, feather_masks
    from gpen.utils.files import expand_user

    # The face detector.
    min_face = args.min_face or _MIN_FACE
    name, reason = choose_detector(args.detector or 'auto', args.weights)
    print(reason)
    detector = build_detector(name, args.weights, min_face, str(device))

    # What is put back, and on which background.
    masks = feather_masks
    if args.mask == 'parse':
        from gpen.faces.parsing import FaceParser

        masks = FaceParser(args.weights, device)
    enlarger = Enlarger(args.upscale or 1)
    if args.background_model:
        enlarger = load_enlarger(expand_user(args.background_model), args.upscale, device)

    # What judges faces.
    compare = None
    if args.keep_identity is not None:
        from gpen.faces.identity import build_comparison

        compare, sentence = build_comparison(args.weights, device)
        print(sentence)

    return PhotographRestorer(
        restorer,
        detector,
        batch_size=args.batch_size,
        min_face=min_face,
        only_center=bool(args.only_center),
        keep_grey=not args.color,
        masks=masks,
        enlarger=enlarger,
        keep_detail=args.large_faces != 'replace',
        min_quality=args.min_quality or 0.0,
        compare=compare,
        min_identity=-1.0 if args.keep_identity is None else args.keep_identity,
    )


def _tell(args: argparse.Namespace, outcome: Outcome, tried: int, skipped: int, size: int) -> int:
    """Print what became of the images; return the exit status: 1 where some failed, 2 where there is no result."""
    for failure in outcome.failures:
        print(f'Skipped: {failure}', file=sys.stderr)

    # Each face that was judged.
    for path, verdicts in outcome.verdicts.items():
        for place, verdict in verdicts:
            print(f'{_name([path])}, {place}: {_describe(verdict)}')

    # Photographs and films without a face, by what was done with them.
    kinds = {
        path: (
            'restored' if path in outcome.verdicts else 'found',
            'film' if path in outcome.films else 'photograph',
            done,
        )
        for path, done in outcome.faceless.items()
    }
    for verb, noun, what in dict.fromkeys(kinds.values()):
        paths = [path for path, kind in kinds.items() if kind == (verb, noun, what)]
        print(f'No face was {verb} in {count_things(len(paths), noun)}, {what}: {_name(paths)}')

    # What results do not have, or have otherwise than one may expect.
    for noun, paths in outcome.losses.items():
        kind = 'image' if outcome.films.keys().isdisjoint(paths) else 'file'
        formats = ' and '.join(dict.fromkeys(p.suffix if p in outcome.films else f'.{args.format}' for p in paths))
        print(f'Not kept in {formats}: {noun} ({count_things(len(paths), kind)}: {_name(paths)})')
    if outcome.large:
        print(_explain_large(args, outcome.large, size))
    if outcome.too_small:
        limit = args.min_face or _MIN_FACE
        verb = 'is' if outcome.too_small == 1 else 'are'
        print(f'{count_things(outcome.too_small, "face")} {verb} smaller than --min_face {limit} and not restored.')
    if skipped:
        print(f'{count_things(skipped, "image")} left out, since the results are there.')

    for path, film in outcome.films.items():
        fleeting = (
            f'; {count_things(film.fleeting, "thing")} seen once alone, taken for no face' if film.fleeting else ''
        )
        followed = (
            f'{count_things(film.faces, "face")} followed and restored in {film.restored:,} of {film.frames:,} frames'
        )
        print(f'{_name([path])}: {followed}{fleeting}.')
    if outcome.restored:
        noun = 'aligned face' if args.aligned else 'face'
        where = '' if args.aligned else f' in {count_things(outcome.restored, "photograph")}'
        print(f'{count_things(outcome.faces, noun)} restored{where}: {args.output}')
    elif outcome.films:
        print(f'{count_things(len(outcome.films), "film")} written: {args.output}')
    elif outcome.faceless:
        print(f'No face was restored; the photographs are in {args.output}')
    if outcome.stopped:
        done = outcome.restored + len(outcome.faceless.keys() | outcome.films) + len(outcome.failures)
        print(
            f'Error: {outcome.stopped} {count_things(tried - done, "image")} not done; run the command again with '
            '--skip_existing.',
            file=sys.stderr,
        )
        return 2
    if outcome.failures:
        print(f'Error: {len(outcome.failures)} of {count_things(tried, "file")} failed: see above.', file=sys.stderr)
        return 1 if outcome.restored or outcome.faceless or outcome.films or skipped else 2
    return 0


def _describe(verdict: Verdict) -> str:
    """Return what was judged of a face, in words."""
    identity = '' if verdict.identity is None else f', identity {verdict.identity:.2f}'
    done = f'left as it was, since {verdict.reason}' if verdict.reason else 'restored'
    return f'score {verdict.face.score:.2f}{identity}, {done}'


def _explain_large(args: argparse.Namespace, large: Mapping[Path, float], size: int) -> str:
    """Return a sentence about faces that are far larger than the network."""
    found = f'{count_things(len(large), "image")} with faces of up to {max(large.values()):.0f} pixels'
    if args.aligned:
        effect = f'results have {size} pixels and less detail'
    elif args.large_faces == 'replace':
        effect = 'such faces have less detail now'
    else:
        effect = f"detail finer than {size} pixels is the photograph's own, unrestored (--large_faces)"
    return (
        f'The network knows faces of {size} pixels, far smaller than those in {found}: {effect}. '
        f'For more, use a network of a larger size: {_name(list(large))}'
    )


def _name(paths: Sequence[Path]) -> str:
    """Return the names of the first images, and how many more there are."""
    names = ', '.join(printable(path.name) for path in paths[:SHOWN])
    return f'{names}, ... and {len(paths) - SHOWN} more' if len(paths) > SHOWN else names
