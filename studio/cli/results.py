"""What came of a run: talking to it, taking it home."""

import argparse
import sys
from pathlib import Path

from studio import jobs, spec
from studio.cli.shared import Result, say, store_of, tell_stage
from studio.settings import Settings


def chat(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """Ask a run's base, tuned or merged model."""
    store = store_of(settings)
    run = store.get(options.run)
    used = run.spec()
    overridden = spec.with_overrides(used, options.set)
    messages = [{"role": "user", "content": options.prompt}]
    if overridden.generate.system_prompt:
        messages.insert(0, {"role": "system", "content": overridden.generate.system_prompt})
    text, stage, final = "", "", {}
    for reply in jobs.chat(
        store, settings, run, used, {options.model: messages}, overridden.generate
    ):
        delta = reply.get("delta", {}).get(options.model, "")
        text += delta
        if not options.json:
            print(delta, end="", flush=True)
        stage = tell_stage(reply, stage)
        if reply.get("done"):
            final = reply
    if not options.json:
        # With beams nothing is streamed: the answer comes whole.
        print("" if text else final["text"][options.model])
    return 0, {
        "run": run.id,
        "model": options.model,
        "text": final["text"][options.model],
        "tokens": final["tokens"][options.model],
        "seconds": final["seconds"],
    }


def export(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """Write the adapter, or a merged model."""
    store = store_of(settings)
    run = store.get(options.run)
    out = settings.resolve(options.out, Path.cwd())
    told = ""
    for state in jobs.export(store, settings, run, options.format, out):
        line = jobs.words(state)
        if line != told:
            print(line, file=sys.stderr, flush=True)
            told = line
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    say(options, f"{options.format} of {run.id} is in {out}")
    return 0, {"run": run.id, "format": options.format, "out": str(out), "files": files}
