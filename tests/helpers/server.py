"""A server of files on the loopback interface, which fails in the ways that servers do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """What is served by path, and what was asked for.

    Attributes:
        url: of the server, without a path.
        files: the contents by path, such as "/a.pth".
        behave: by path, how: "page" answers HTML, "redirect" elsewhere first, a number breaks off
            after so many bytes, the first `breaks[path]` times.
        ranges, tells_length: whether it continues files, and says how long they are.
        asked: the paths that were asked for, with the Range of each.
    """

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.behave: dict[str, str | int] = {}
        self.breaks: dict[str, int] = {}
        self.ranges = True
        self.tells_length = True
        self.delay = threading.Event()
        self.delay.set()
        self.asked: list[tuple[str, str | None]] = []


@contextmanager
def serving() -> Iterator[Server]:
    """Serve for the block."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.delay.wait(20)
            state.asked.append((self.path, self.headers.get("Range")))
            path = self.path.partition("?")[0]
            how = state.behave.get(path)
            if how == "redirect":
                self.send_response(302)
                self.send_header("Location", state.url + path.replace("/moved", ""))
                self.end_headers()
                return
            if how == "page":
                self._answer(b"<!DOCTYPE html><html>Sign in</html>", 200)
                return
            if isinstance(how, str) and how.isdigit():
                self.send_error(int(how))
                return
            if path not in state.files:
                self.send_error(404)
                return
            self._file(path, how)

        def _file(self, path: str, breaks_at: Any) -> None:
            content, status = state.files[path], 200
            wanted = self.headers.get("Range")
            if wanted and state.ranges:
                content, status = content[int(wanted[6:].rstrip("-")) :], 206
            sent = content
            if breaks_at is not None and state.breaks.get(path, 1) > 0:
                state.breaks[path] = state.breaks.get(path, 1) - 1
                sent = content[:breaks_at]
            self._answer(sent, status, len(content))

        def _answer(self, content: bytes, status: int, length: int | None = None) -> None:
            self.send_response(status)
            if state.tells_length:
                self.send_header("Content-Length", str(len(content) if length is None else length))
            self.send_header("ETag", '"one"')
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
