"""``gpen-test`` / ``python codes/test.py``: score trained weights on the validation pairs of an option file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gpen.commands._run import run_command


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog='test.py', description='Score a trained generator on datasets.val, with the blurry input beside it.'
    )
    parser.add_argument('-opt', required=True, metavar='FILE', help='option file of the run')
    parser.add_argument('--model', metavar='FILE', help="weights; default: the run's best, else its latest")
    parser.add_argument('--output', metavar='DIR', help='where results go; default: experiments/NAME/results')
    parser.add_argument('--force_yml', nargs='+', action='extend', default=[], metavar='KEY:KEY=VALUE')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)

    def body() -> int:
        from gpen.options import parse_options

        options = parse_options(args.opt, args.force_yml, training=False).options
        from gpen.evaluation.score import find_weights, format_table, score, write_results
        from gpen.training.device import explain_out_of_memory, select_device

        device, _ = select_device(options.num_gpu)
        weights = find_weights(options, args.model)
        batch_size = options.datasets.val.batch_size_per_gpu if options.datasets.val is not None else 1
        with explain_out_of_memory(batch_size, 'datasets.val.batch_size_per_gpu'):
            scores = score(options, weights, device)
        folder = Path(args.output) if args.output else options.experiment_folder / 'results'
        sheet = write_results(scores, weights, folder)
        print(f'Weights: {weights}\n\n{format_table(scores)}\n')
        print(f'Numbers: {folder / "results.json"}, {folder / "results.csv"}')
        if sheet is not None:
            print(f'Picture (input | restored | sharp): {sheet}')
        return 0

    return run_command(body)
