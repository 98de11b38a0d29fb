"""A stand-in for the Hub's data sets: serves folders, with revisions, and refuses in its words."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

# The commit of each branch.
COMMITS = {"main": "0" * 39 + "1", "next": "0" * 39 + "2"}
# What the Hub answers for ids that are not served: status and error code.
REFUSALS = {"gated/rows": (403, "GatedRepo"), "broken/rows": (500, "")}

Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def hub(  # noqa: C901 - a class inside of a function is counted with it
    repos: dict[str, dict[str, Path]],
) -> Iterator[tuple[str, list[str]]]:
    """Serves for each data set's id the folders of its branches; yields the address and the list of
    what was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._respond(b"")

        def do_GET(self) -> None:
            self._respond(b"")

        def do_POST(self) -> None:
            self._respond(self.rfile.read(int(self.headers["Content-Length"])))

        def _respond(self, given: bytes) -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(f"{self.command} {path}")
            status, headers, body = _answer(path, given, repos)
            asked.append(f"   {status}")
            begin, end = self._range(len(body))
            if status == 200 and "Range" in self.headers:
                status = 206
                headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(body)}"
            self.send_response(status)
            body = body[begin:end]
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _range(self, size: int) -> tuple[int, int]:
            found = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if not found:
                return 0, size
            return int(found[1]), min(size, int(found[2]) + 1) if found[2] else size

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


def _answer(path: str, given: bytes, repos: dict[str, dict[str, Path]]) -> Answer:
    if path.startswith("/api/datasets/"):
        owner, name, *rest = path.removeprefix("/api/datasets/").split("/")
        branches = repos.get(f"{owner}/{name}")
        if branches is None:
            return _refusal(f"{owner}/{name}")
        revision = rest[1] if len(rest) > 1 else "main"
        folder = _folder(branches, revision)
        if folder is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        commit = next(c for b, c in COMMITS.items() if branches.get(b) == folder)
        if rest[:1] == ["tree"]:
            return _json(_tree(folder, "/".join(rest[2:]), deep=True))
        if rest[:1] == ["paths-info"]:
            wanted = json.loads(given)["paths"]
            return _json([x for x in _tree(folder, "", deep=True) if x["path"] in wanted])
        files = [{"rfilename": x["path"]} for x in _tree(folder, "", deep=True)]
        return _json(
            {"_id": "1", "id": f"{owner}/{name}", "sha": commit, "siblings": files, "tags": []}
        )
    if path.startswith("/datasets/"):
        owner, name, _, revision, file = path.removeprefix("/datasets/").split("/", 4)
        branches = repos.get(f"{owner}/{name}", {})
        folder = _folder(branches, revision)
        if folder is None or not (folder / file).is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        commit = next(c for b, c in COMMITS.items() if branches.get(b) == folder)
        headers = {"ETag": f'"{commit}{file}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        return 200, headers, (folder / file).read_bytes()
    return 404, {}, b"{}"


def _folder(branches: dict[str, Path], revision: str) -> Path | None:
    by_commit = {commit: branches.get(branch) for branch, commit in COMMITS.items()}
    return branches.get(revision) or by_commit.get(revision)


def _json(value: object) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _refusal(repo: str) -> Answer:
    status, code = REFUSALS.get(repo, (404, "RepoNotFound"))
    return status, {"X-Error-Code": code} if code else {}, b"{}"


def _tree(folder: Path, under: str, deep: bool) -> list[dict[str, object]]:
    found = sorted(path for path in (folder / under).rglob("*"))
    return [
        {"type": "directory", "path": str(path.relative_to(folder)), "oid": "1", "size": 0}
        if path.is_dir()
        else {
            "type": "file",
            "path": str(path.relative_to(folder)),
            "size": path.stat().st_size,
            "oid": COMMITS["main"],
        }
        for path in found
    ]
