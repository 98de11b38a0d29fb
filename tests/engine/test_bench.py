"""The bench as its clients see it: a process, an address, JSON both ways."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import pytest

from studio.runs import Run, files
from studio.settings import Settings
from tests.engine.helpers import start_worker, wait_until

HI = [{"role": "user", "content": "What is your name? 3"}]
Process = subprocess.Popen[str]
Start = Callable[[Settings], Process]


def address(settings: Settings) -> Path:
    return settings.home / "bench" / "address.json"


def published(settings: Settings) -> str:
    try:
        return address(settings).read_text()
    except FileNotFoundError:
        return ""


def connect(settings: Settings) -> Connection:
    found = json.loads(address(settings).read_text())
    return Client(("127.0.0.1", found["port"]), authkey=bytes.fromhex(found["key"]))


def ask(settings: Settings, **request: Any) -> list[dict[str, Any]]:
    """All replies to one request."""
    replies = []
    with connect(settings) as connection:
        connection.send_bytes(json.dumps(request).encode())
        while True:
            replies.append(json.loads(connection.recv_bytes()))
            if "done" in replies[-1] or "error" in replies[-1]:
                return replies


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts benches and returns once they listen; none outlives the tests."""
    started = []

    def begin(settings: Settings) -> Process:
        process = start_worker(settings, "bench")
        started.append(process)
        wait_until(lambda: address(settings).exists() or process.poll() is not None)
        return process

    yield begin
    for process in started:
        with process:
            process.kill()


@pytest.fixture(scope="module")
def bench(session_settings: Settings, start: Start) -> Settings:
    """A bench that serves the session's home."""
    start(session_settings)
    return session_settings


def chat(bench: Settings, run: Run, sides: Any, **generate: Any) -> list[dict[str, Any]]:
    request = {"op": "chat", "spec": {}, "run": str(run.path), "sides": sides}
    return ask(bench, **request, generate={"max_new_tokens": 12, **generate})


def test_only_its_owner_can_read_where_it_listens(bench: Settings) -> None:
    assert address(bench).stat().st_mode & 0o777 == 0o600
    process = files.read_process(bench.home / "bench" / "pid")
    assert process is not None and process.is_running()


def test_without_the_key_it_does_not_talk(bench: Settings) -> None:
    port = json.loads(address(bench).read_text())["port"]
    with pytest.raises(AuthenticationError):
        Client(("127.0.0.1", port), authkey=b"guess")
    # Nor does somebody who connects and says nothing keep others waiting.
    with Client(("127.0.0.1", port)):
        assert ask(bench, op="ping")[-1]["done"]


def test_a_preview_is_what_training_gets(
    bench: Settings, tree: dict[str, Any], tiny_tokenizer: Any
) -> None:
    reply = ask(bench, op="preview", spec=tree, start=4, rows=2)[-1]
    assert (reply["total"], reply["layout"]["name"], reply["context"]) == (20, "messages", 8192)
    assert [row["index"] for row in reply["rows"]] == [4, 5]
    row = reply["rows"][0]
    (tokens,) = row["sequences"]
    assert tokens["text"] == tiny_tokenizer.apply_chat_template(row["messages"], tokenize=False)
    assert len(tokens["tokens"]) == len(tokens["input_ids"]) == len(tokens["trained"])
    assert "".join(tokens["tokens"]) == tokens["text"]
    assert any(tokens["trained"]) and not all(tokens["trained"])
    batch = ask(bench, op="batch", spec=tree, number=0)[-1]
    assert len(batch["sha256"]) == 64 and batch["batches"] == 4 and len(batch["rows"]) == 4
    assert ask(bench, op="lengths", spec=tree, sample=9)[-1]["sampled"] == 9
    assert ask(bench, op="find", spec=tree, text="name? 7", start=0)[-1]["index"] == 7
    assert ask(bench, op="preview", spec=tree, start=400, rows=2)[-1]["rows"] == []


def test_a_chat_streams_both_sides(bench: Settings, trained: Run, merged: Path) -> None:
    replies = chat(bench, trained, {"base": HI, "tuned": HI})
    last = replies[-1]
    assert "writing the answer" in [reply.get("stage") for reply in replies]
    for side in ("base", "tuned"):
        said = "".join(r["delta"].get(side, "") for r in replies if "delta" in r)
        assert said == last["text"][side]
        assert 0 < last["tokens"][side] <= 12
    assert last["seconds"] > 0
    assert trained.id in ask(bench, op="ping")[-1]["loaded"]
    assert chat(bench, trained, {"merged": HI})[-1]["text"]["merged"] == last["text"]["tuned"]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"op": "dance"}, "knows no 'dance'"),
        ({"op": "preview", "spec": {"train": {"lr": 1}}}, "train.lr"),
        ({"op": "preview", "spec": {"model": {"name_or_path": "./no"}}}, "no folder ./no"),
        ({"op": "preview", "spec": {"data": {"path": "./no.csv"}}}, "no.csv"),
        ({"op": "chat", "sides": {}, "run": None}, "nobody to answer"),
        ([1], "not a JSON object"),
    ],
)
def test_a_bad_request_gets_one_sentence(bench: Settings, request_: Any, says: str) -> None:
    with connect(bench) as connection:
        connection.send_bytes(json.dumps(request_).encode())
        replies = []
        while not replies or "error" not in replies[-1]:
            replies.append(json.loads(connection.recv_bytes()))
    assert says in replies[-1]["error"] + replies[-1]["hint"]


def writing(bench: Settings, run: Run) -> Connection:
    """A connection on which an answer is being written that would go on for minutes."""
    request = {
        "op": "chat",
        "run": str(run.path),
        "sides": {"base": HI},
        "generate": {"max_new_tokens": 30_000},
    }
    connection = connect(bench)
    connection.send_bytes(json.dumps(request).encode())
    while "delta" not in json.loads(connection.recv_bytes()):
        pass
    return connection


def test_a_client_that_closes_cancels_and_previews_do_not_wait(
    bench: Settings, trained: Run, tree: dict[str, Any]
) -> None:
    connection = writing(bench, trained)
    assert ask(bench, op="preview", spec=tree, start=0, rows=1)[-1]["done"]
    replies: list[Any] = []
    waiting = threading.Thread(target=lambda: replies.extend(chat(bench, trained, {"base": HI})))
    waiting.start()
    time.sleep(0.5)
    assert waiting.is_alive()
    connection.close()
    waiting.join(30)
    assert replies[-1]["done"]
    assert {"stage": "waiting for the answer before this one"} in replies


def test_a_second_bench_leaves_the_first_alone(bench: Settings) -> None:
    before = address(bench).read_text()
    second = start_worker(bench, "bench")
    output, _ = second.communicate(timeout=60)
    assert (second.returncode, output) == (0, "")
    assert address(bench).read_text() == before
    assert ask(bench, op="ping")[-1]["done"]


def test_quit_answers_and_ends_even_while_it_writes(
    settings: Settings, start: Start, trained: Run
) -> None:
    process = start(settings)
    with writing(settings, trained):
        assert ask(settings, op="quit") == [{"done": True}]
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert not address(settings).exists()
    # The next one starts at once.
    following = start(settings)
    assert ask(settings, op="ping") == [{"done": True, "loaded": None}]
    following.kill()
    following.communicate()
    # Killed, it leaves an address that leads nowhere; the one after it puts that right.
    stale = address(settings).read_text()
    start(settings)
    # In between there is no address, or it is the stale one.
    wait_until(lambda: published(settings) not in ("", stale))
    assert ask(settings, op="ping")[-1]["done"]


def test_it_goes_when_nobody_asks(settings: Settings, start: Start) -> None:
    process = start(replace(settings, bench_idle_s=1))
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert not address(settings).exists()
    assert files.read_process(settings.home / "bench" / "pid") is None


def test_a_term_ends_it_cleanly(settings: Settings, start: Start) -> None:
    process = start(settings)
    os.kill(process.pid, 15)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert not address(settings).exists()
