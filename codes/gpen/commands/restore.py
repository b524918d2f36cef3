"""``gpen-restore`` / ``python codes/restore.py``: restore aligned faces."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gpen.commands._run import run_command


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog='restore.py',
        description="Restore images of one aligned face each. The network's size is read off its file.",
    )
    parser.add_argument('--model', required=True, metavar='FILE', help='weights of a GPEN generator')
    parser.add_argument('--input', required=True, metavar='PATH', help='an image, or a folder of images')
    parser.add_argument('--output', required=True, metavar='DIR', help='where restored images go, as PNG')
    parser.add_argument('--batch_size', type=int, default=4, metavar='N', help='faces at a time (default 4)')
    parser.add_argument('--device', choices=['auto', 'cpu', 'cuda'], default='auto')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)

    def body() -> int:
        from gpen.errors import UserError

        if args.batch_size < 1:
            raise UserError(f'--batch_size {args.batch_size}: give 1 or more.')
        from tqdm import tqdm

        from gpen.restoration.folder import plan_targets, restore_images
        from gpen.restoration.restorer import load_restorer
        from gpen.training.device import explain_out_of_memory, select_device

        device, _ = select_device(0 if args.device == 'cpu' else 'auto')
        if args.device == 'cuda' and device.type != 'cuda':
            raise UserError('--device cuda: PyTorch finds no GPU here. Use --device cpu.')
        restorer = load_restorer(Path(args.model), device)
        targets = plan_targets(Path(args.input), Path(args.output))
        with (
            tqdm(total=len(targets), unit='face', disable=None) as bar,
            explain_out_of_memory(args.batch_size, '--batch_size'),
        ):
            done, failures = restore_images(restorer, targets, args.batch_size, lambda chunk: bar.update(len(chunk)))
        for failure in failures:
            print(f'Skipped: {failure}', file=sys.stderr)
        print(f'{done} restored at {restorer.size} x {restorer.size}: {args.output}')
        return 0 if done else 2

    return run_command(body)
