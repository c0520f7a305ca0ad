"""A web server with one file, some 10 MiB/s: prints its URL, serves until it is ended. To run on a host of its own."""

from __future__ import annotations

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECE_BYTES, PAUSE_S = 1 << 20, 0.1


class Handler(BaseHTTPRequestHandler):
    """Sends the file that the command line names, whatever is asked for."""

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Send it, piece by piece."""
        file = Path(sys.argv[1])
        self.send_response(200)
        self.send_header("Content-Length", str(file.stat().st_size))
        self.end_headers()
        with file.open("rb") as content:
            while piece := content.read(PIECE_BYTES):
                self.wfile.write(piece)
                time.sleep(PAUSE_S)


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/tiny.qcow2", flush=True)
        server.serve_forever()
