"""A web server in a thread: a folder with or without byte ranges, and one that fails."""

import re
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Folder(SimpleHTTPRequestHandler):
    """Serves a folder as http.server does: no byte ranges."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


class Ranges(Folder):
    """Serves byte ranges too, and notes what it sends: (path, first byte, bytes)."""

    def do_GET(self):
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None or not Path(self.translate_path(self.path)).is_file():
            self.server.sent.append((self.path, 0, None))
            super().do_GET()
            return
        whole = Path(self.translate_path(self.path)).read_bytes()
        part = whole[int(asked[1]) : int(asked[2]) + 1]
        self.server.sent.append((self.path, int(asked[1]), len(part)))
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(whole)}")
        self.end_headers()
        self.wfile.write(part[: len(part) - self.server.lost])
        if self.server.lost:
            self.close_connection = True


class Failing(Folder):
    """Answers every request with the status that it was given."""

    def send_head(self):
        self.send_error(self.server.status)


class Silent(Folder):
    """Takes requests and sends nothing, or only the head of an answer, until the server ends."""

    def do_HEAD(self):
        self.server.asked += 1
        self.server.over.wait()

    def do_GET(self):
        if self.server.lost:  # so many bytes come
            whole = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[: self.server.lost])
            self.wfile.flush()
        self.do_HEAD()


class Flaky(Folder):
    """Is busy (503) at the first requests of a kind, as many as `lost` says, and answers the others."""

    def send_head(self):
        self.server.asked += 1
        if self.server.lost:
            self.server.lost -= 1
            self.send_error(503)
            return None
        return super().send_head()


class Slow(Folder):
    """Sends a file in ten pieces with a pause before each."""

    def do_GET(self):
        whole = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        size = -(-len(whole) // 10)
        for at in range(0, len(whole), size):
            self.server.over.wait(self.server.pause)
            self.wfile.write(whole[at : at + size])
            self.wfile.flush()


@contextmanager
def serving(folder, handler=Ranges, status=500, lost=0, pause=0.0):
    """The server; `url` is its address, `sent` what it sent, `lost` how many bytes of each part it does not send,
    `asked` how often it was asked in vain."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    server.daemon_threads = True
    server.sent, server.lost, server.status = [], lost, status
    server.asked, server.pause, server.over = 0, pause, threading.Event()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
