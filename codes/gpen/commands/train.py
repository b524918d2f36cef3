"""``gpen-train`` / ``python codes/train.py``: train from an option file."""

import argparse
from collections.abc import Sequence

from gpen.commands._arguments import ArgumentParser, add_force_yml, add_mirror, add_option_file
from gpen.commands._run import handle_errors


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(description='Train a face restoration network from an option file.')
    add_option_file(parser)
    parser.add_argument(
        '--auto_resume',
        action='store_true',
        help='continue from the newest state of this run; without it, results of an earlier run are moved aside',
    )
    add_force_yml(parser, 'train:optim_g:lr=2e-4 name=trial')
    add_mirror(parser)
    parser.add_argument(
        '--dry_run',
        action='store_true',
        help='check the file, build everything, run one step and one validation batch, write nothing (but weights that '
        'have to be downloaded)',
    )
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch'),
        default='none',
        help='pytorch: one of the processes that torchrun started, one for each GPU',
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)

    # Options are checked before torch is imported, which takes seconds.
    with handle_errors() as outcome:
        from gpen.distributed.launch import join_processes
        from gpen.options import parse_options

        with join_processes(args.launcher, args.auto_resume or args.dry_run):
            if args.launcher == 'none':
                parsed = parse_options(args.opt, args.force_yml)
            else:
                from gpen.distributed import ranks

                parsed = ranks.on_all(lambda: parse_options(args.opt, args.force_yml))

            with parsed.naming_lines():
                if args.dry_run:
                    from gpen.training.dry_run import run_dry

                    lines = run_dry(parsed)
                    print('\n'.join(lines), end='\n' if lines else '')
                else:
                    from gpen.training.run import run_training

                    outcome.status = run_training(parsed, args.auto_resume)
    return outcome.status
