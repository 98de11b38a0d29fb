"""The token for the Hub that is typed into the page."""

from studio.errors import StudioError
from studio.jobs.spawn import writing
from studio.runs import files
from studio.settings import Settings


def keep_token(settings: Settings, text: str | None) -> None:
    """Keeps the token in a file that only its owner can read, or removes the file where it is None.
    Raises StudioError for what can't be a token."""
    path = settings.home / "hub_token"
    with writing(settings.home):
        if text is None:
            path.unlink(missing_ok=True)
            return
        token = text.strip()
        # It becomes a header of a request: a line break in it would be another header.
        if not token.isascii() or not token.isprintable() or " " in token or not token:
            raise StudioError(
                "That is no token.", "Copy one from the Hub: Settings, then Access Tokens."
            )
        # write_text's files are readable by their owner only.
        files.write_text(path, token + "\n")
