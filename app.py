"""Opens Atelier in the browser: `python app.py`, or a Space that finds `demo`."""

import os
import sys

# Set before Gradio is imported: it asks its own host for news otherwise.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from studio.errors import StudioError  # noqa: E402
from studio.settings import Settings  # noqa: E402
from studio.ui.app import build  # noqa: E402
from studio.ui.serve import serve  # noqa: E402

settings = Settings.from_env()
demo = build(settings)

if __name__ == "__main__":
    try:
        serve(demo, settings)
    except StudioError as error:
        sys.exit(str(error))
