"""What a run is doing, in words."""

from studio.runs import RunState


def words(state: RunState) -> str:
    """The state's stage in words, with its count where it has one: "tokenizing 120 of 150"."""
    if state.done is not None and state.total and str(state.total) not in state.stage:
        return f"{state.stage} ({100 * state.done // state.total} %)"
    return state.stage or state.status
