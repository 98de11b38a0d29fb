"""A stand-in for the Hub: serves folders as model repositories, and refuses in the Hub's words."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# What the Hub answers for ids that are not served: status and error code.
REFUSALS = {"gated/model": (403, "GatedRepo"), "broken/model": (500, "")}


@contextmanager
def hub(repos: dict[str, Path], files_break: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Serves the repositories; yields the address and the list of paths that were asked for. With
    `files_break` each file's connection is cut after its headers."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._respond(send_body=False)

        def do_GET(self) -> None:
            self._respond(send_body=True)

        def _respond(self, *, send_body: bool) -> None:
            path = urlsplit(self.path).path
            asked.append(f"{self.command} {path}")
            status, headers, body = _answer(path, repos)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if files_break and send_body and not path.startswith("/api/"):
                self.close_connection = True
            elif send_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(path: str, repos: dict[str, Path]) -> tuple[int, dict[str, str], bytes]:
    if path.startswith("/api/models/"):
        owner, name, *rest = path.removeprefix("/api/models/").split("/")
        folder = repos.get(f"{owner}/{name}")
        if folder is None:
            return _refusal(f"{owner}/{name}")
        if rest[:1] == ["tree"]:
            return 200, {"Content-Type": "application/json"}, json.dumps(_tree(folder)).encode()
        if rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        info = {"_id": "1", "id": f"{owner}/{name}", "sha": COMMIT, "siblings": [], "tags": []}
        return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()
    owner, name, _, _, file = path.removeprefix("/").split("/", 4)
    body = (repos[f"{owner}/{name}"] / file).read_bytes()
    headers = {"ETag": f'"{file}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
    return 200, headers, body


def _refusal(repo: str) -> tuple[int, dict[str, str], bytes]:
    status, code = REFUSALS.get(repo, (404, "RepoNotFound"))
    return status, {"X-Error-Code": code} if code else {}, b"{}"


def _tree(folder: Path) -> list[dict[str, object]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        {
            "type": "file",
            "path": str(path.relative_to(folder)),
            "size": path.stat().st_size,
            "oid": COMMIT,
        }
        for path in files
    ]
