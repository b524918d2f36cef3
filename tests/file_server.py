"""A server of this machine that publishes files, and fails as servers do: slow, broken off, refusing, lying."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Offer:
    """What an address answers.

    Attributes:
        content: of the file.
        status: of the answer.
        ends_at: the byte of the file at which the connection ends, by the number of the request (from 0 on).
        takes_ranges: whether the rest of the file can be asked for.
        shift: how many bytes too late the rest begins.
        version: of the file, as its ETag says.
        pause: before each quarter of the file, seconds.
    """

    content: bytes
    status: int = 200
    ends_at: dict[int, int] = field(default_factory=dict)
    takes_ranges: bool = True
    shift: int = 0
    version: str = '1'
    pause: float = 0


class FileServer:
    """The running server.

    Attributes:
        address: without a slash at the end.
        offers: what is published, by path without the first slash.
        asked: the path of each request, and the first byte that it asked for.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.offers: dict[str, Offer] = {}
        self.asked: list[tuple[str, int]] = []

    def publish(self, path: str, content: bytes, **settings: object) -> str:
        """Publish a file; return its address."""
        self.offers[path] = Offer(content, **settings)  # type: ignore[arg-type]
        return f'{self.address}/{path}'

    def starts(self, path: str) -> list[int]:
        """Return the first byte that each request for a file asked for."""
        return [start for asked, start in self.asked if asked == path]


@contextmanager
def serve_files() -> Iterator[FileServer]:
    """Run a server inside the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            """Answer as the Hugging Face Hub does, whose client asks for the version first."""
            offer = files.offers.get(self.path.lstrip('/'), Offer(b'', 404))
            self.send_response(offer.status)
            for name, value in {'ETag': f'"{offer.version}"', 'X-Repo-Commit': 40 * '1'}.items():
                self.send_header(name, value)
            self.send_header('Content-Length', str(len(offer.content)))
            self.end_headers()

        def do_GET(self) -> None:
            path = self.path.lstrip('/')
            wanted = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range') or '')
            number = len(files.starts(path))
            files.asked.append((path, int(wanted[1]) if wanted else 0))
            offer = files.offers.get(path, Offer(b'', 404))
            start = int(wanted[1]) + offer.shift if wanted and offer.takes_ranges else 0
            total = len(offer.content)

            self.send_response(206 if start else offer.status)
            self.send_header('ETag', f'"{offer.version}"')
            self.send_header('Content-Length', str(total - start))
            if start:
                self.send_header('Content-Range', f'bytes {start}-{total - 1}/{total}')
            self.end_headers()
            with suppress(OSError):  # who has heard enough hangs up
                self._send(offer, start, offer.ends_at.get(number, total))
            self.close_connection = True

        def _send(self, offer: Offer, start: int, end: int) -> None:
            step = -(-len(offer.content) // 4) or 1
            for first in range(start, end, step):
                time.sleep(offer.pause)
                self.wfile.write(offer.content[first : min(end, first + step)])
                self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    files = FileServer(f'http://127.0.0.1:{server.server_port}')
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
