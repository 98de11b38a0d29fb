"""How much the studio's page costs beside a bare Gradio page with six tabs: seconds to the first
answer, and memory resident after it and after a browser has opened it.

The two are started in turn, in fresh processes, five times each.

    python bench/web_start.py [--times 5]
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
TARGET = 1.3
BARE = """
import os

import gradio as gr

with gr.Blocks() as demo:
    for name in ("Model", "Data", "Tune", "Runs", "Chat", "Export"):
        with gr.Tab(name):
            gr.Textbox(label=name)
            gr.Button(name)
demo.launch(server_name="127.0.0.1", server_port=int(os.environ["PORT"]), quiet=True)
"""
CHROMIUM = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def started(script: Path, port: int, home: Path) -> Iterator[psutil.Process]:
    """The script in a fresh process, ended with its children afterwards."""
    env = {
        **os.environ,
        "PORT": str(port),
        "STUDIO_HOME": str(home),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "PYTHONPATH": str(ROOT),
    }
    with (home / "server.log").open("wb") as log:
        popen = subprocess.Popen(
            [sys.executable, str(script)], cwd=ROOT, env=env, stdout=log, stderr=log
        )
    process = psutil.Process(popen.pid)
    try:
        yield process
    finally:
        family = [*process.children(recursive=True), process]
        for member in family:
            member.terminate()
        psutil.wait_procs(family, timeout=10, callback=None)
        popen.wait()


def resident(process: psutil.Process) -> float:
    """MiB of the process and its children."""
    family = [process, *process.children(recursive=True)]
    return float(sum(member.memory_info().rss for member in family)) / 2**20


def measure(script: Path, browser: Browser) -> tuple[float, float, float]:
    """(seconds to the first 200, MiB two seconds later, MiB after the page was opened once)."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        began = time.perf_counter()
        with started(script, port, home) as process:
            while not answers(url):
                if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                    sys.exit(f"{script.name} ended:\n{(home / 'server.log').read_text()[-3000:]}")
                if time.perf_counter() - began > 120:
                    sys.exit(f"{script.name} gave no page within two minutes.")
                time.sleep(0.02)
            seconds = time.perf_counter() - began
            time.sleep(2)
            quiet = resident(process)
            page = browser.new_page()
            page.goto(url, wait_until="load")
            page.get_by_role("tab").first.wait_for()
            time.sleep(2)
            page.close()
            return seconds, quiet, resident(process)


def main() -> None:
    parser = argparse.ArgumentParser(description="The studio's page beside a bare one.")
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE, encoding="utf-8")
        scripts = {"studio": ROOT / "app.py", "bare": bare}
        results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in scripts}
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        for number in range(1, options.times + 1):
            print(f"round {number} of {options.times}", file=sys.stderr)
            for name, script in scripts.items():
                results[name].append(measure(script, browser))
        browser.close()
    print(
        f"{'median of ' + str(options.times):14}{'first 200, s':>14}{'MiB':>8}{'MiB, opened':>13}"
    )
    medians = {}
    for name, rows in results.items():
        medians[name] = [statistics.median(column) for column in zip(*rows, strict=True)]
        seconds, quiet, opened = medians[name]
        print(f"{name:14}{seconds:>14.2f}{quiet:>8.0f}{opened:>13.0f}")
    ratios = [a / b for a, b in zip(medians["studio"], medians["bare"], strict=True)]
    print(f"{'ratio':14}{ratios[0]:>14.2f}{ratios[1]:>8.2f}{ratios[2]:>13.2f}")
    print(f"at most {TARGET}: {'yes' if max(ratios) <= TARGET else 'NO'}")


if __name__ == "__main__":
    main()
