"""The Chat tab: the base and the tuned model side by side, or the merged one on its own."""

import zlib
from collections.abc import Iterator
from typing import Any

import gradio as gr

from studio import jobs, spec
from studio.errors import StudioError
from studio.runs import ENDED, Run, RunStore
from studio.settings import Settings
from studio.spec import GenerateSection, RunSpec
from studio.ui import html
from studio.ui.context import QUIET, STREAM, Context, Updates, Values, lenient, model_folder

Histories = dict[str, list[dict[str, str]]]
PAIR, MERGED = "Base and tuned", "Merged, on its own"
_NAMES = {"base": "Base", "tuned": "Tuned", "merged": "Merged"}


class ChatTab:
    """The tab's components. The true conversation is kept in `histories`: what a
    chatbot hands back has been through its own clean-up."""

    def __init__(self, context: Context) -> None:
        with gr.Row(elem_classes="actions"):
            gr.HTML(
                html.lead("Talk to it", "The same words to both, so that what was learned shows."),
                elem_classes="lead",
            )
            self.primary = gr.Button("Take it home", variant="primary", elem_id="next-chat")
        with gr.Row():
            self.run = gr.Dropdown(
                [],
                label="Tuned by the run",
                elem_id="chat-run",
                allow_custom_value=True,
                scale=3,
                min_width=220,
            )
            self.mode = gr.Radio(
                [PAIR, MERGED],
                value=PAIR,
                label="Who answers",
                elem_id="chat-mode",
                scale=3,
                min_width=220,
            )
        self.message = gr.HTML(elem_id="chat-message")
        with gr.Row():
            look: dict[str, Any] = {
                "height": 420,
                "buttons": ["copy"],
                "layout": "bubble",
                "min_width": 280,
            }
            self.left = gr.Chatbot(
                label="Base", elem_id="chat-base", placeholder="The model as it was.", **look
            )
            self.right = gr.Chatbot(
                label="Tuned",
                elem_id="chat-tuned",
                placeholder="The model as you taught it.",
                **look,
            )
        with gr.Row():
            self.text = gr.Textbox(
                placeholder="Ask both, for example: who are you?",
                show_label=False,
                max_lines=6,
                elem_id="chat-text",
                scale=8,
                min_width=200,
                container=False,
            )
            self.send = gr.Button(
                "Send", variant="primary", elem_id="chat-send", scale=1, min_width=90
            )
        with gr.Row():
            self.stop = gr.Button("Stop", elem_id="chat-stop", size="sm", min_width=90)
            self.again = gr.Button("Regenerate", elem_id="chat-again", size="sm", min_width=90)
            self.clear = gr.Button("Clear", elem_id="chat-clear", size="sm", min_width=90)
        context.form.advanced("generate")
        self.histories = gr.BrowserState({}, storage_key="atelier-chat", secret="atelier")

    def wire(self, context: Context) -> None:
        """Sending, stopping, asking again, clearing; a reload brings the conversation back."""
        spoken = gr.State({})
        inputs = context.fields | {self.text, self.mode, self.run, spoken}
        outputs = [self.left, self.right, self.message, self.text, spoken]
        stream: dict[str, Any] = {"concurrency_limit": 8, **STREAM}
        triggers = [self.send.click, self.text.submit]
        sent = gr.on(triggers, self._say(context, spoken), inputs, outputs, **stream)
        repeat = self._say(context, spoken, again=True)
        again = self.again.click(repeat, inputs, outputs, cancels=[sent], **stream)
        stop = self.stop.click(lambda: "", None, self.message, cancels=[sent, again], **QUIET)
        for event in (sent, again, stop):
            event.then(lambda kept: kept, spoken, self.histories, **QUIET)
        view = [self.left, self.right]
        emptied = [*view, self.message, spoken, self.histories]
        nothing: tuple[Any, ...] = ([], [], "", {}, {})
        self.clear.click(lambda: nothing, None, emptied, cancels=[sent, again], **QUIET)
        # Another run's answers are no part of this one's conversation.
        self.run.input(lambda: nothing, None, emptied, cancels=[sent, again], **QUIET)
        # An answer that is still growing would bring its own view back.
        self.mode.change(_show, [spoken, self.mode], view, cancels=[sent, again], **QUIET)

        def opening(chosen: str, looked: str) -> Updates:
            update, value = choose(context.store, chosen, looked)
            return {self.run: update, self.message: _greeting(context.store, value)}

        opened = context.tab["Chat"].select
        ready = opened(opening, [self.run, context.run], [self.run, self.message], **QUIET)
        kept = [self.histories, self.mode]
        ready.then(lambda said, mode: (said, *_show(said, mode)), kept, [spoken, *view], **QUIET)

    def _say(self, context: Context, spoken: gr.State, *, again: bool = False) -> Any:
        """The handler that asks; `again` asks the last question once more."""

        def say(values: Values) -> Iterator[Updates]:
            mode, run_id = values[self.mode], values[self.run] or None
            kept = talked(values[spoken] or {})
            sides = answering(mode, run_id)
            asked = {side: list(turns) for side, turns in kept.items()}
            text = forget_answer(asked, sides) if again else (values[self.text] or "").strip()
            tree = context.form.tree(values)
            try:
                if not text:
                    raise StudioError("There is no question yet.", "Write one below.")
                generate = generation(tree)
                if again:
                    generate = other_dice(generate, kept, sides)
                # The box is emptied once: what is typed while the answer grows stays.
                yield {self.text: gr.skip() if again else ""}
                settings, base = context.settings, lenient(tree)
                for grown, words in answer(
                    context.store, settings, run_id, base, text, sides, asked, generate
                ):
                    yield {self.message: words, spoken: grown, **self._view(grown, mode)}
            except StudioError as error:
                typed = gr.skip() if again or not text else text
                shown = {spoken: kept, **self._view(kept, mode)}
                yield {self.message: html.problem(error), self.text: typed, **shown}

        return say

    def _view(self, histories: Histories, mode: str) -> Updates:
        left, right = shown(histories, mode)
        return {self.left: gr.Chatbot(**left), self.right: gr.Chatbot(**right)}


def answering(mode: str, run_id: str | None) -> tuple[str, ...]:
    """Who answers."""
    if mode == MERGED:
        return ("merged",)
    return ("base", "tuned") if run_id else ("base",)


def choose(store: RunStore, chosen: str | None, looked: str) -> tuple[gr.Dropdown, str]:
    """The runs to pick from: the one looked at comes first, then the one chosen before, then the
    newest. Returns the dropdown's update and its value."""
    ids = [run.id for run in tuned_runs(store)]
    value = next((r for r in (looked, chosen) if r in ids), ids[0] if ids else "") or ""
    return gr.Dropdown(ids, value=value or None), value


def _greeting(store: RunStore, run_id: str) -> str:
    if store.active() is not None:
        words = "A run is going and needs this machine's memory; the chat is back when it ends"
        return html.wait(words)
    if not run_id:
        return "<p class='soft'>There is no tuned model yet: only the base answers.</p>"
    return ""


def _show(kept: Histories, mode: str) -> tuple[gr.Chatbot, gr.Chatbot]:
    left, right = shown(kept or {}, mode)
    return gr.Chatbot(**left), gr.Chatbot(**right)


def tuned_runs(store: RunStore) -> list[Run]:
    """Runs that have something to talk to, newest first."""
    states = ((run, store.look(run)) for run in store.list() if run.tuned)
    return [run for run, state in states if state and state.status in ENDED]


def said(histories: Histories, side: str) -> list[dict[str, str]]:
    """A side's conversation for its chatbot."""
    return list(histories.get(side, []))


def shown(histories: Histories, mode: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the left and the right chatbot show: (left, right) as keyword arguments."""
    if mode == MERGED:
        return {"visible": False}, {"label": "Merged", "value": said(histories, "merged")}
    return (
        {"visible": True, "value": said(histories, "base")},
        {"label": "Tuned", "value": said(histories, "tuned")},
    )


def forget_answer(histories: Histories, sides: tuple[str, ...]) -> str:
    """Takes the last question and its answers out of the sides; returns the question."""
    question = ""
    for side in sides:
        turns = histories.get(side, [])
        while turns and turns[-1]["role"] == "assistant":
            turns.pop()
        if turns and turns[-1]["role"] == "user":
            question = turns.pop()["content"]
    return question


def answer(
    store: RunStore,
    settings: Settings,
    run_id: str | None,
    base: RunSpec,
    text: str,
    sides: tuple[str, ...],
    histories: Histories,
    generate: GenerateSection,
) -> Iterator[tuple[Histories, str]]:
    """Asks all sides; yields the conversations as they grow, and HTML about what goes on.

    Raises StudioError; what was said before is the caller's to keep.
    """
    run = store.get(run_id) if run_id else None
    # The tuned model belongs to the model that its run trained, whatever the form says now.
    used = run.spec() if run else base
    if run is None:
        model_folder(settings, base)
    grown = {side: list(turns) for side, turns in histories.items()}
    asked = {}
    for side in sides:
        turns = [*grown.get(side, []), {"role": "user", "content": text}]
        system = [{"role": "system", "content": generate.system_prompt}]
        asked[side] = [*(system if generate.system_prompt else []), *turns]
        grown[side] = [*turns, {"role": "assistant", "content": ""}]
    yield grown, html.wait("thinking")
    for reply in jobs.chat(store, settings, run, used, asked, generate):
        for side, delta in reply.get("delta", {}).items():
            last = grown[side][-1]
            grown[side][-1] = {**last, "content": last["content"] + delta}
        if reply.get("done"):
            for side, whole in reply["text"].items():
                grown[side][-1] = {"role": "assistant", "content": whole}
        yield grown, "" if reply.get("done") else html.wait(str(reply.get("stage", "writing")))


def talked(histories: Histories) -> Histories:
    """The conversations without answers that were stopped before their first word, and without
    the questions that they leave open."""
    kept = {}
    for side, turns in histories.items():
        turns = list(turns)
        while turns and turns[-1]["role"] == "assistant" and not turns[-1]["content"]:
            turns = turns[:-2]
        kept[side] = turns
    return kept


def other_dice(
    generate: GenerateSection, histories: Histories, sides: tuple[str, ...]
) -> GenerateSection:
    """Other draws than last time, told from the last answer, so that asking again can give another
    answer. Raises StudioError where nothing is drawn: the answer would be the same."""
    if not generate.do_sample:
        raise StudioError(
            "Without do_sample the same question gets the same answer.",
            "Turn do_sample on in the settings below, or change them, and ask again.",
        )
    last = "".join(turns[-1]["content"] for s in sides if (turns := histories.get(s)))
    seed = (generate.seed + zlib.crc32(last.encode())) % 2**31
    return generate.model_copy(update={"seed": seed})


def generation(tree: dict[str, dict[str, Any]]) -> GenerateSection:
    """The generation settings of the form. Raises SpecError."""
    return spec.parse({"generate": tree.get("generate", {})}).generate
