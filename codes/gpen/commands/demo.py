"""Show a trained network on a page in the browser: drop a photograph, see every face before and after.

The page is served at http://127.0.0.1:7860 to this computer alone, until Ctrl-C.  Photographs stay in memory (where
/dev/shm has 1 GB of room; otherwise in a private folder), and are deleted after 15 minutes and at the end.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpen.commands._arguments import ArgumentParser, add_color, add_detector, add_model, within
from gpen.commands._run import run_command

if TYPE_CHECKING:
    from gpen.demo.service import Service


def host_pattern(text: str) -> str:
    """Return the name of a host, or a pattern such as ``*.example`` or ``*``."""
    if not re.fullmatch(r'\*|(\*\.)?[\w.-]+|\[[\da-fA-F:.]+\]', text):
        raise argparse.ArgumentTypeError(f'{text} is no name of a host; give one without scheme and port')
    return text


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, 'a checkpoint, an exported .onnx file')
    parser.add_argument('--host', default='127.0.0.1', help='address to serve at; 0.0.0.0: to everyone (127.0.0.1)')
    parser.add_argument(
        '--port', type=within(int, 0, 65535), default=7860, help='the next free one where it is taken; 0: any (7860)'
    )
    parser.add_argument(
        '--allow_host', type=host_pattern, action='append', default=[], metavar='NAME',
        help='another name or address that the page is visited by, such as faces.example or *.example; repeatable',
    )  # fmt: skip
    parser.add_argument('--device', choices=['auto', 'cpu', 'cuda'], default='auto')
    parser.add_argument('--precision', choices=['fp32', 'bf16', 'fp16'], default='fp32')
    parser.add_argument('--batch_size', type=within(int, 1, 1024), default=4, metavar='N', help='faces at a time (4)')
    add_color(parser)
    add_detector(parser)
    parser.add_argument(
        '--max_size', type=within(float, 0.001, 4000), default=20, metavar='MB', help='largest file (20 MB)'
    )
    parser.add_argument(
        '--max_pixels', type=within(int, 1, 10**9), default=50_000_000, metavar='N',
        help='largest photograph, before and after it is enlarged (50,000,000)',
    )  # fmt: skip
    parser.add_argument('--open', action='store_true', help='open the page in the browser')
    return parser.parse_args(arguments)


def show(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; return the exit status."""
    from gpen.demo.server import build_app, name_hosts, open_socket, prepare, private_folder, serve

    prepare()
    listener = open_socket(args.host, args.port)
    hosts = name_hosts(args.host, args.allow_host)
    with listener, private_folder() as (folder, place):
        # After private_folder, which tells Gradio where to put files.
        from gpen.demo.page import About

        service, model = build_service(args, folder)
        app = build_app(service, About(model, round(args.max_size * (1 << 20)), place), folder, hosts)
        serve(app, listener, folder, lambda: announce(args.host, args.port, listener.getsockname(), hosts, args.open))
    if service.is_busy:
        # The thread that the network still runs in would abort the interpreter when it ends in the usual way.
        sys.stdout.flush()
        os._exit(0)
    return 0


def build_service(args: argparse.Namespace, folder: Path) -> tuple[Service, str]:
    """Load the network and the detector; return what restores photographs, and the network in words."""
    from gpen.demo.service import MIN_FACE, Service
    from gpen.faces.detection import build_detector, choose_detector
    from gpen.restoration.loading import load_restorer
    from gpen.restoration.photograph import PhotographRestorer
    from gpen.utils.device import choose_device
    from gpen.weights.by_name import find_model

    device = choose_device(args.device)
    model = find_model(args.model)
    restorer = load_restorer(model, device, args.precision, fall_back=args.device == 'auto')
    name, reason = choose_detector(args.detector, args.weights)
    print(reason)
    detector = build_detector(name, args.weights, MIN_FACE, device.type)
    photographs = PhotographRestorer(restorer, detector, args.batch_size, MIN_FACE, keep_grey=not args.color)
    service = Service(photographs, folder, args.max_pixels)
    return service, f'{model.name}: faces of {restorer.size} x {restorer.size} pixels, {restorer.backend}'


def announce(host: str, wanted: int, bound: tuple[str, int], hosts: Sequence[str], open_it: bool) -> None:
    """Print where the page is: at ``host``, which is bound to an address and a port, and answers to ``hosts``."""
    import ipaddress

    port = bound[1]
    at = ipaddress.ip_address(bound[0].partition('%')[0])
    if wanted not in (0, port):
        print(f'Port {wanted} is taken; this is the next free one.')
    if not at.is_loopback:
        print(f'Warning: anyone who can reach this computer at port {port} can use the page (--host {host}).')
        print(f'It answers to the names {", ".join(hosts)}; allow others by --allow_host NAME.')
    name = 'localhost' if at.is_unspecified else f'[{host}]' if ':' in host else host
    address = f'http://{name}:{port}'
    print('Press Ctrl-C to end it.')
    print(address, flush=True)
    if open_it:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)
    return run_command(lambda: show(args))
