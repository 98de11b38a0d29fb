"""The Runs tab: the live view, and what can be done with the run that is looked at."""

from pathlib import Path

import gradio as gr
import plotly

from studio.runs import ENDED
from studio.ui import html, live
from studio.ui.context import Context

PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


class RunsTab:
    """The tab's components; `app` wires them."""

    def __init__(self, context: Context) -> None:
        with gr.Row(elem_classes="actions"):
            gr.HTML(html.lead("Watch it learn", "A run goes on when this page is closed. Come back whenever you like."),
                    elem_classes="lead")
            self.stop = gr.Button("Stop and keep", variant="stop", elem_id="stop-run", visible=False)
            self.kill = gr.Button("Stop now", elem_id="kill-run", visible=False)
            self.again = gr.Button("Start training", elem_id="start-runs")
            self.talk = gr.Button("Talk to it", variant="primary", elem_id="talk", visible=False)
        self.message = gr.HTML(elem_id="runs-message")
        self.view = live.view(context.store, PLOTLY)

    def buttons(self, context: Context, run_id: str) -> dict[gr.Button, gr.Button]:
        """Which buttons make sense for the run that is looked at."""
        run = next((r for r in context.store.list() if r.id == run_id), None)
        state = context.store.state(run) if run else None
        going = state is not None and state.status not in ENDED
        asked = run is not None and run.stop.exists()
        active = context.store.active() is not None
        tuned = run is not None and not going and (run.adapter / "adapter_config.json").is_file()
        return {
            self.stop: gr.Button(visible=going, interactive=not asked),
            self.kill: gr.Button(visible=going and asked),
            self.again: gr.Button(visible=not active, variant="secondary" if tuned else "primary"),
            self.talk: gr.Button(visible=tuned),
        }
