"""The served page: to this machine only, nothing from outside, nothing told that is not needed."""

import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.testclient import TestClient

from studio import jobs
from studio.errors import StudioError
from studio.runs import RunStore
from studio.settings import PROJECT, Settings
from studio.spec import DEFAULTS
from studio.ui.header import polls
from studio.ui.polls import Polls
from studio.ui.run_acts import Hands, perform
from studio.ui.serve import claim, options, serve
from tests.ui.conftest import SECRET, write


@pytest.fixture
def log(config: dict[str, Any]) -> dict[str, Any]:
    """A request that the live view makes, for the log of a run."""
    live = next(c for c in config["components"] if c["props"].get("elem_id") == "live")
    return {"data": {}, "component_id": live["id"], "fn_name": "log", "session_hash": "test"}


def post(browser: httpx.Client, body: dict[str, Any], **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return browser.post("/gradio_api/component_server", json=body, headers=named)


def test_the_page_answers(browser: httpx.Client) -> None:
    answer = browser.get("/")
    assert answer.status_code == 200 and "Atelier" in answer.text


def test_the_page_is_kept_for_each_address_and_as_gradio_writes_it(
    browser: httpx.Client, home: Settings
) -> None:
    def seen(**headers: str) -> httpx.Response:
        return browser.get("/", headers={k.replace("_", "-"): v for k, v in headers.items()})

    anew = browser.get("/", params={"not": "kept"}).text
    for coding in ("identity", "gzip", "gzip"):
        answer = seen(Accept_Encoding=coding)
        assert answer.headers.get("content-encoding", "identity") == coding
        assert answer.text == anew
    assert f'"root":"http://127.0.0.1:{home.port}"' in anew.replace(": ", ":")
    elsewhere = seen(X_Forwarded_Host="atelier.example", X_Forwarded_Proto="https").text
    assert "https://atelier.example" in elsewhere and seen().text == anew
    assert browser.get("/", params={"view": "api"}).status_code == 200
    assert browser.head("/").status_code == 200


def test_where_many_ask_each_is_told_to_ask_less_often(browser: httpx.Client) -> None:
    assert float(browser.get("/poll?[]").headers["X-Crowd"]) >= 1.0
    polls = Polls(lambda *_: None, {})  # type: ignore[arg-type, return-value]
    polls._easy = 10.0

    def after(asked: int) -> float:
        polls._since, polls._asked = time.monotonic() - 3.0, asked - 1
        return polls._crowd()

    # 30 a second are three times too many; once each asks a third as often, it stays at that.
    assert after(90) == pytest.approx(3.0, rel=0.01)
    assert after(30) == pytest.approx(3.0, rel=0.01)
    assert after(10) == pytest.approx(1.0, rel=0.01)
    assert after(1) == 1.0 and after(10_000) == 10.0


def test_one_answer_that_goes_wrong_takes_no_other_along() -> None:
    def wrong(_request: Any) -> Any:
        raise TypeError("a log that nobody understands")

    asked = [["good", 1], ["wrong", 1], ["wrong", {"offset": 0}], ["good", 2], ["nix", 1]]
    polls = Polls(lambda *_: None, {"good": lambda n: {"n": n}, "wrong": wrong})  # type: ignore[arg-type, return-value]

    answer = TestClient(polls).get("/poll?" + quote(json.dumps(asked)))
    assert answer.json() == [{"n": 1}, None, None, {"n": 2}, None]


def test_its_own_requests_are_taken(
    browser: httpx.Client, home: Settings, log: dict[str, Any]
) -> None:
    here = f"http://127.0.0.1:{home.port}"
    for headers in ({}, {"Origin": here}, {"Origin": here, "Sec_Fetch_Site": "same-origin"}):
        answer = post(browser, log, **headers)
        assert answer.status_code == 200
        assert "There is no run" in answer.json()["text"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
    ],
    ids=str,
)
def test_what_another_sites_page_sends_is_refused(
    browser: httpx.Client, log: dict[str, Any], headers: dict[str, str]
) -> None:
    assert post(browser, log, **headers).status_code == 403
    upload = browser.post(
        "/gradio_api/upload", files={"files": ("a.jsonl", b"{}")},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )  # fmt: skip
    assert upload.status_code == 403
    # A poll only reads, but keeps a conductor and a spare worker going.
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    assert browser.get('/poll?[["pulse",0]]', headers=named).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Referer": "http://127.0.0.1:{port}/?view=1"}, 200),
        ({"Referer": "http://127.0.0.1:1/"}, 403),
        ({"Referer": "https://evil.example/127.0.0.1:{port}"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        # Behind a proxy that gives itself as the host, the browser knows better than we do.
        ({"Sec-Fetch-Site": "same-origin", "Referer": "https://atelier.example/"}, 200),
    ],
    ids=str,
)
def test_only_its_own_page_polls(
    browser: httpx.Client, home: Settings, headers: dict[str, str], status: int
) -> None:
    sent = {name: value.replace("{port}", str(home.port)) for name, value in headers.items()}
    assert browser.get("/poll?[]", headers=sent).status_code == status


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", ""]
)
def test_a_foreign_host_is_refused(browser: httpx.Client, log: dict[str, Any], host: str) -> None:
    assert browser.get("/", headers={"Host": host}).status_code == 400
    assert post(browser, log, Host=host).status_code == 400


def test_the_browser_is_told_to_load_nothing_from_outside(browser: httpx.Client) -> None:
    for path in ("/", "/config", "/theme.css", "/nowhere"):
        headers = browser.get(path).headers
        policy = {
            d.split()[0]: d.split()[1:] for d in headers["content-security-policy"].split(";")
        }
        assert policy["default-src"][0] == policy["connect-src"][0] == "'self'"
        assert policy["object-src"] == ["'none'"] and policy["base-uri"] == ["'self'"]
        outside = [
            s for sources in policy.values() for s in sources if re.match(r"\*|https?:|wss?:", s)
        ]
        assert outside == []
        assert headers["x-content-type-options"] == "nosniff"


def test_the_page_itself_asks_no_other_host(browser: httpx.Client, config: dict[str, Any]) -> None:
    loaded = re.findall(
        r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"(.*?)\"", browser.get("/").text
    )
    hosts = {httpx.URL(url).host for url in loaded if url.startswith("http")}
    assert loaded and hosts <= {"127.0.0.1"}
    assert config["analytics_enabled"] is False


def test_no_history_of_what_was_typed_is_kept(config: dict[str, Any]) -> None:
    assert config["run_history"] is False
    assert config["footer_links"] == []


def test_the_page_tells_no_path_but_that_of_the_chart_library(
    config: dict[str, Any], home: Settings
) -> None:
    told = json.dumps(config)
    assert str(home.home) not in told and str(home.workspace) not in told
    assert str(Path.home()) not in told or Path.home() in Path(PROJECT).parents
    paths = set(re.findall(re.escape(str(PROJECT)) + r"[^\"\\\s]*", told))
    assert {Path(p).name for p in paths} <= {"plotly.min.js"}


def test_no_secret_of_the_environment_is_told(
    browser: httpx.Client, config: dict[str, Any]
) -> None:
    assert os.environ["HF_TOKEN"] == SECRET
    for text in (json.dumps(config), browser.get("/").text, browser.get("/gradio_api/info").text):
        assert SECRET not in text


def test_no_handler_is_offered_as_an_api(browser: httpx.Client, config: dict[str, Any]) -> None:
    assert browser.get("/gradio_api/info").json()["named_endpoints"] == {}
    assert {d["api_visibility"] for d in config["dependencies"]} == {"private"}


def test_files_of_runs_are_served_and_no_others(browser: httpx.Client, home: Settings) -> None:
    mine = write(home.runs / "served" / "export" / "adapter" / "README.md", "mine")
    assert browser.get(f"/gradio_api/file={mine}").text == "mine"
    secrets = [
        "/etc/passwd", PROJECT / "app.py", write(home.home / "bench" / "address.json", "{}"),
        write(home.workspace / ".env", SECRET), home.runs / ".." / "bench" / "address.json",
    ]  # fmt: skip
    link = home.runs / "served" / "export" / "link"
    link.symlink_to("/etc/passwd")
    for path in [*secrets, link]:
        answer = browser.get(f"/gradio_api/file={path}")
        assert answer.status_code in (403, 404), path
        assert SECRET not in answer.text


def test_a_port_that_is_taken_is_told_with_another(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StudioError, match=f"Port {port} can't be used") as caught:
            serve(None, replace(settings, port=port))  # type: ignore[arg-type]
        assert f"PORT={port + 1}" in caught.value.hint


def test_behind_a_proxy_and_on_a_slow_machine_the_page_opens_all_the_same(
    settings: Settings,
) -> None:
    script = (
        "import runpy, time\nfrom studio.ui.front import Front\nanswer = Front.__call__\n"
        "async def late(self, scope, *rest):\n"
        "    if scope.get('method') == 'HEAD':\n        time.sleep(4)\n"
        "    await answer(self, scope, *rest)\n"
        "Front.__call__ = late\nrunpy.run_path('app.py', run_name='__main__')\n"
    )
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        env = {
            **os.environ, "STUDIO_HOME": str(settings.home), "PORT": port,
            "http_proxy": proxy, "HTTP_PROXY": proxy, "no_proxy": "", "NO_PROXY": "inside.example",
        }  # fmt: skip
        command = [sys.executable, "-c", script]
        with subprocess.Popen(command, cwd=PROJECT, env=env, stdout=subprocess.PIPE) as opened:
            assert opened.stdout
            assert b"Atelier is open" in opened.stdout.readline()
            opened.kill()


def test_a_port_that_is_none_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    monkeypatch.setenv("PORT", "http")
    with pytest.raises(SystemExit, match=r"^PORT=http is not"):
        runpy.run_path(str(PROJECT / "app.py"), run_name="__main__")


def test_of_two_studios_of_one_home_the_second_only_looks(settings: Settings) -> None:
    script = (
        "import time\nfrom studio.settings import Settings\nfrom studio.ui.serve import claim\n"
        "print(claim(Settings.from_env()).looks_only or 'mine', flush=True)\ntime.sleep(60)\n"
    )
    env = {**os.environ, "STUDIO_HOME": str(settings.home), "PORT": "7999"}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=PROJECT, env=env, stdout=subprocess.PIPE) as first:
        assert first.stdout and first.stdout.readline() == b"mine\n"
        second = claim(settings)
        assert "Another studio" in second.looks_only and ":7999" in second.looks_only
        store = RunStore(second.runs)
        run = store.create(DEFAULTS, "a")
        for refused in (
            lambda: jobs.start(store, second, DEFAULTS, "b"),
            lambda: jobs.enqueue(store, second, DEFAULTS, "b"),
            lambda: jobs.resume(store, second, run),
            lambda: jobs.branch(store, second, run, 1),
            lambda: jobs.sweep(store, second, DEFAULTS, "b", {"train.seed": [1, 2]}),
        ):
            with pytest.raises(StudioError, match="Another studio"):
                refused()
        told = perform(Hands(store, second, lambda: DEFAULTS), {"do": "delete", "run": run.id})
        assert "Another studio" in told.message and store.list() == [run]
        assert "Another studio" in polls(store, second)["pulse"]({})["warning"]
        first.kill()
    # It is free as soon as the first is gone, however it went.
    assert claim(settings).looks_only == ""


def test_only_this_machine_is_served_unless_asked_for(settings: Settings) -> None:
    assert options(settings)["server_name"] == "127.0.0.1"
    assert not options(settings).get("share")


def test_of_a_run_only_the_exports_are_served(browser: httpx.Client, home: Settings) -> None:
    run = home.runs / "20250101-000000-served"
    (run / "export" / "adapter").mkdir(parents=True)
    (run / "worker.log").write_text("private words")
    (run / "export" / "adapter" / "README.md").write_text("to take home")
    served = f"/gradio_api/file={run}"
    assert browser.get(f"{served}/export/adapter/README.md").text == "to take home"
    for path in ("worker.log", "export/../worker.log", "export/adapter/%2e%2e/%2e%2e/worker.log"):
        answer = browser.get(f"{served}/{path}")
        assert answer.status_code in (403, 404) and "private" not in answer.text, path
    shutil.rmtree(run)
