"""Write a trained generator in one file for other programs.

onnx: for ONNX Runtime and others; any batch size; compared with PyTorch before it is kept.  safetensors: the weights,
with the network's options as metadata.  gpen: the layout of the published files, such as GPEN-BFR-512.pth.
codes/restore.py reads all three.  EMA weights are taken where the checkpoint has some.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from gpen.commands._arguments import ArgumentParser, add_model
from gpen.commands._run import run_command
from gpen.errors import UserError
from gpen.utils.files import expand_user


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, 'our checkpoint, a published one, BasicSR-style or safetensors')
    parser.add_argument('--format', required=True, choices=('onnx', 'safetensors', 'gpen'))
    parser.add_argument(
        '--output',
        metavar='FILE',
        help='where to (beside the checkpoint, of hf:// into this folder: NAME.onnx, .safetensors or NAME_gpen.pth)',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace a file that is there')
    parser.add_argument(
        '--check', metavar='FACES', help='compare ONNX Runtime with PyTorch on these too: an image, or a folder'
    )
    parser.add_argument(
        '--half', action='store_true', help='onnx: keep the weights in float16, half the size (NAME_fp16.onnx)'
    )
    return parser.parse_args(arguments)


def export(args: argparse.Namespace) -> int:
    """Write the file; return the exit status."""
    from gpen.registry.published import HUB
    from gpen.restoration.export import export_generator, name_output
    from gpen.restoration.export_onnx import external_path
    from gpen.utils.device import is_out_of_memory
    from gpen.weights.by_name import find_model

    output, faces = (None if path is None else expand_user(path) for path in (args.output, args.check))
    if output is None and args.model.startswith(HUB):  # not beside it, in a cache
        output = Path(name_output(args.model.rpartition('/')[2], args.format, args.half))
    try:
        target = export_generator(
            find_model(args.model),
            args.format,
            output,
            args.overwrite,
            faces,
            lambda step: print(step, flush=True),
            args.half,
        )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError('Out of memory. Close other programs, or export on a machine that has more.') from error
    files = [path for path in (target, external_path(target)) if path.is_file()]
    print('Written: ' + ', '.join(f'{path} ({path.stat().st_size / 1e6:.1f} MB)' for path in files))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)
    return run_command(lambda: export(args))
