"""Opens Atelier in the browser: `python app.py`, or a Space that finds `demo`."""

import os
import sys

# Set before Gradio is imported: it asks its own host for news otherwise.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from studio.errors import StudioError
from studio.settings import Settings
from studio.ui.app import build
from studio.ui.serve import claim, serve

try:
    settings = Settings.from_env()
    if __name__ == "__main__":
        settings = claim(settings)
    demo = build(settings)
    if __name__ == "__main__":
        serve(demo, settings)
except StudioError as error:
    sys.exit(str(error))
