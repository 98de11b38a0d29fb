"""What a jsonl of a million rows, about 1 GB, costs: the seconds until its first rows are seen, and
any other row; the page's memory meanwhile; and the rows a second of the audit beside those of the
tokenizer alone.

    python bench/million_rows.py [--rows 1000000] [--file F] [--only page,audit] [--json OUT]

The file is made of sentences of Python's own handbook, lines of its library and a little German and
Persian, in an order drawn from a seed. Made once, it stays in the home (--home).
"""

import argparse
import inspect
import json
import os
import random
import re
import string
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from web_start import CHROMIUM, ROOT, free_port, started

from studio import jobs
from studio.data import open_data, peek
from studio.plan.catalogue import EMBEDDED
from studio.plan.machine import machine
from studio.settings import Settings
from studio.spec import RunSpec, parse

FIRST_ROWS_S, ANY_ROW_S, WEB_MIB, SHARE = 3.0, 1.0, 400.0, 0.7
# Texts on which the tokenizer alone is timed; ours are alike throughout.
ALONE = 60_000
_PAGES = 8
_OTHERS = (
    "Der Zug nach Süden fährt heute eine halbe Stunde später als sonst.",
    "Man sollte die Äpfel erst ernten, wenn sie sich leicht vom Zweig lösen lassen.",
    "هوا امروز سرد است و باران از صبح زود می‌بارد.",
    "برای پختن این غذا به برنج، زعفران و کمی روغن نیاز داریم.",
)


def sentences() -> list[str]:
    """Some thousand sentences, and some thousand lines of code."""
    from pydoc_data.topics import topics

    told = re.split(r"(?<=[.:])\s+", " ".join(topics.values()))
    prose = [" ".join(s.split()) for s in told if 30 < len(s) < 300]
    modules = (argparse, inspect, json, random, re, string, subprocess, tempfile, threading)
    lines = [line for module in modules for line in inspect.getsource(module).splitlines()]
    code = ["`" + line.strip() + "`" for line in lines if 30 < len(line) < 100]
    return prose + code[: len(prose) // 4] + list(_OTHERS) * (len(prose) // 40)


def write(path: Path, rows: int, seed: int = 0) -> None:
    """Writes the rows: a question of one or two sentences, an answer of one to fourteen; one row
    in five goes on with another question."""
    dice, pool = random.Random(seed), sentences()

    def turns(number: int, first: str) -> list[dict[str, str]]:
        asked = " ".join(dice.choices(pool, k=dice.randint(1, 2)))
        answered = " ".join(dice.choices(pool, k=dice.randint(1, 14)))
        return [
            {"role": "user", "content": f"{first}{asked}"},
            {"role": "assistant", "content": answered},
        ]

    aside = path.with_suffix(".part")
    with aside.open("w", encoding="utf-8") as out:
        for number in range(1, rows + 1):
            row = turns(number, f"Note {number}. ")
            if number % 5 == 0:
                row += turns(number, "")
            out.write(json.dumps({"messages": row}, ensure_ascii=number % 2 == 0) + "\n")
    aside.replace(path)


def spec_of(path: Path) -> RunSpec:
    return parse({"data": {"path": str(path)}, "train": {"max_length": 1024}})


@contextmanager
def timed(into: dict[str, Any], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    into[name] = round(time.perf_counter() - began, 3)


def reading(path: Path, settings: Settings) -> dict[str, Any]:
    """Seconds that the page's own functions take, in this process."""
    section, found = spec_of(path).data, dict[str, Any]()
    with timed(found, "peek_s"):
        peek(section, settings, 20)
    with timed(found, "index_s"):
        for _ in jobs.index(settings, section):
            pass
    with timed(found, "open_s"):
        data = open_data(section, settings)
    slowest = 0.0
    for start in np.linspace(0, data.total - 20, 50).astype(int).tolist():
        began = time.perf_counter()
        rows = data.raw(start, 20)
        slowest = max(slowest, time.perf_counter() - began)
        assert len(rows) == 20 and data.where(start)
    return {**found, "slowest_page_s": round(slowest, 4)}


class Watch:
    """The largest memory of a process, looked at all the time."""

    def __init__(self, process: psutil.Process) -> None:
        self.peak = 0.0
        self._process = process
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        # It ends before we do where a step of the measurement fails.
        with suppress(psutil.NoSuchProcess):
            while not self._ended.wait(0.05):
                self.peak = max(self.peak, self._process.memory_info().rss / 2**20)

    def end(self) -> float:
        self._ended.set()
        self._thread.join()
        return round(self.peak, 1)


def show(page: Page, path: Path) -> dict[str, Any]:
    """Seconds until the file's first rows are on the screen, and then rows anywhere in it."""
    found: dict[str, Any] = {}
    page.get_by_role("tab", name="Data", exact=True).click()
    page.locator("#data-table").get_by_role("gridcell").first.wait_for(timeout=60_000)
    box = page.locator("#f-data-path input").first
    box.fill(str(path))
    began = time.perf_counter()
    box.press("Enter")
    page.locator("#data-table").get_by_text("Note 1.").first.wait_for(timeout=120_000)
    found["first_rows_s"] = round(time.perf_counter() - began, 2)
    # The rest of it is read by a process of its own.
    page.get_by_text(re.compile(r"[\d,]+ rows")).first.wait_for(timeout=300_000)
    page.locator("#row-seen").get_by_text("Note 1.").first.wait_for(timeout=120_000)
    with path.open("rb") as file:
        total = sum(piece.count(b"\n") for piece in iter(lambda: file.read(2**24), b""))
    box, slowest = page.locator("#row-goto input, #row-goto textarea").first, 0.0
    for number in np.linspace(2, total, _PAGES).astype(int).tolist():
        box.fill(str(number))
        began = time.perf_counter()
        box.press("Enter")
        page.locator("#row-seen").get_by_text(f"Note {number}.").first.wait_for(timeout=60_000)
        slowest = max(slowest, time.perf_counter() - began)
    found["any_row_s"] = round(slowest, 2)
    return found


def in_browser(path: Path, models: Path) -> dict[str, Any]:
    """The same through the page, and how large the web process gets meanwhile."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home = Path(folder)
        (home / "models").symlink_to(models)
        port = free_port()
        os.environ["STUDIO_WORKSPACE"] = str(path.parent)
        with started(ROOT / "app.py", port, home) as process:
            watch = Watch(process)
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
            page = browser.new_page()
            _open(page, f"http://127.0.0.1:{port}/")
            found = show(page, path)
            page.locator("#audit-start").click()
            page.locator("#audit-stop").wait_for(timeout=60_000)
            page.wait_for_timeout(10_000)
            page.locator("#audit-stop").click()
            browser.close()
            return {**found, "web_mib": watch.end()}


def _open(page: Page, url: str) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            page.goto(url, wait_until="load")
            return
        # It is still starting.
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


_ALONE = """
import json, sys, time
from pathlib import Path
from studio.data import open_data
from studio.engine.encode import Encoder
from studio.engine.tokenizer import load_tokenizer
from studio.settings import Settings
from studio.spec import parse
import numpy as np
spec = parse(json.loads(sys.argv[1]))
settings = Settings.from_env()
loaded = load_tokenizer(settings.models / "SmolLM2-135M-Instruct", spec.data).tokenizer
data = open_data(spec.data, settings)
encoder = Encoder(loaded, spec.data.train_on, spec.train.max_length)
rows = done = seconds = cpu = 0
wanted = np.linspace(0, data.total - 1, min(data.total, int(sys.argv[2]))).astype(int)
for _, rows in data.iterate(np.unique(wanted), 5000):
    texts = [encoder.renderer.text(data.example(row).messages) for row in rows]
    began, busy = time.perf_counter(), time.process_time()
    made = loaded.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    seconds += time.perf_counter() - began
    cpu += time.process_time() - busy
    done += len(made)
print(json.dumps([done / seconds, done / cpu]))
"""


def tokenizer_alone(path: Path, settings: Settings) -> list[float]:
    """Rows a second that `encode_batch` of tokenizers makes of the very texts, on all cores; and
    rows a second of one core's time, which tells more where other programs run beside it."""
    env = {
        **os.environ,
        "STUDIO_HOME": str(settings.home),
        "STUDIO_WORKSPACE": str(settings.workspace),
        "TOKENIZERS_PARALLELISM": "true",
        "RAYON_NUM_THREADS": str(machine().cores),
        "PYTHONPATH": str(ROOT),
    }
    told = json.dumps({"data": {"path": str(path)}, "train": {"max_length": 1024}})
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, told, str(ALONE)],
        env=env, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    told_back: list[float] = json.loads(done.stdout)
    return told_back


def audited(path: Path, settings: Settings, rows: int) -> dict[str, Any]:
    """Rows a second of the audit, from its start to its report, and those of the tokenizer alone
    before and after it, by the clock and by the cores' own time; the memory that it takes, its
    processes together."""
    alone = [tokenizer_alone(path, settings)]
    found, spec = dict[str, Any](), spec_of(path)
    peak = pss = looked = 0.0
    cpu = dict[int, float]()
    with tempfile.TemporaryDirectory() as folder:
        home = replace(settings, home=Path(folder))
        for kind in ("models", "cache"):
            (home.home / kind).symlink_to(settings.home / kind)
        with timed(found, "audit_s"):
            for _ in jobs.audit(home, spec):
                family = _family(home)
                cpu |= {p.pid: _cpu(p) or cpu.get(p.pid, 0.0) for p in family}
                # To look at memory takes a while itself.
                if time.monotonic() - looked > 5:
                    looked = time.monotonic()
                    peak = max(peak, sum(_memory(p, "uss") for p in family))
                    pss = max(pss, sum(_memory(p, "pss") for p in family))
        report = jobs.audit_result(home, spec)
    assert report is not None and report.counts["rows"] == rows
    alone.append(tokenizer_alone(path, settings))
    speed, best = rows / found["audit_s"], max(a for a, _ in alone)
    own, best_own = rows / sum(cpu.values()), max(a for _, a in alone)
    return {
        **found,
        "audit_own_mib": round(peak),
        "audit_with_shared_and_mapped_mib": round(pss),
        "audit_rows_per_s": round(speed),
        "tokenizer_rows_per_s": [round(a) for a, _ in alone],
        "share": round(speed / best, 3),
        "audit_rows_per_core_s": round(own),
        "tokenizer_rows_per_core_s": [round(a) for _, a in alone],
        "share_by_core_time": round(own / best_own, 3),
        "counts": report.counts,
        "findings": {f.id: f.count for f in report.findings},
    }


def _family(settings: Settings) -> list[psutil.Process]:
    found = []
    for pid in settings.home.glob("audits/*/pid"):
        try:
            process = psutil.Process(int(json.loads(pid.read_text())["pid"]))
            found += [process, *process.children(recursive=True)]
        except (psutil.Error, ValueError, OSError):
            continue
    return found


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _memory(process: psutil.Process, kind: str) -> float:
    try:
        return float(getattr(process.memory_full_info(), kind)) / 2**20
    except psutil.Error:
        return 0.0


def _verdicts(found: dict[str, Any]) -> Iterator[tuple[str, float, str, bool]]:
    """What was asked for: its name, the figure, the limit, whether it is kept."""
    limits = (
        ("first rows on the screen, s", "first_rows_s", FIRST_ROWS_S),
        ("any row on the screen, s", "any_row_s", ANY_ROW_S),
        ("web process at its largest, MiB", "web_mib", WEB_MIB),
        ("peek, s", "peek_s", FIRST_ROWS_S),
        ("any page of 20 rows, s", "slowest_page_s", ANY_ROW_S),
    )
    for words, name, limit in limits:
        if name in found:
            yield words, found[name], f"at most {limit:g}", found[name] <= limit
    if "share" in found:
        words = "audit : tokenizer alone"
        for name, how in (("share", words), ("share_by_core_time", f"{words}, core time")):
            yield how, found[name], f"at least {SHARE}", found[name] >= SHARE


def main() -> None:
    parser = argparse.ArgumentParser(description="What a million rows cost.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--file", type=Path, help="another jsonl of that many rows")
    parser.add_argument("--home", type=Path, default=Path.home() / ".atelier")
    parser.add_argument("--only", default="reading,page,audit")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = options.home / "bench-data"
    folder.mkdir(parents=True, exist_ok=True)
    path = (options.file or folder / f"rows-{options.rows}.jsonl").resolve()
    if not path.is_file():
        write(path, options.rows)
    # What was indexed for an earlier measurement must not help this one.
    with tempfile.TemporaryDirectory(dir=options.home) as home:
        (Path(home) / "models").symlink_to(options.home.resolve() / "models")
        settings = Settings(home=Path(home), workspace=path.parent)
        if not (settings.models / EMBEDDED).is_dir():
            sys.exit("The embedded model is needed: make model")
        found: dict[str, Any] = {"rows": options.rows, "bytes": path.stat().st_size}
        found["cores"] = machine().cores
        if "page" in options.only:
            found |= in_browser(path, options.home.resolve() / "models")
        if "reading" in options.only or "audit" in options.only:
            found |= reading(path, settings)
        if "audit" in options.only:
            found |= audited(path, settings, options.rows)
    for name, value in found.items():
        print(f"{name:36}{value}")
    kept = True
    for words, value, limit, good in _verdicts(found):
        print(f"{words:36}{value:>10}   {limit}: {'yes' if good else 'NO'}")
        kept = kept and good
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
