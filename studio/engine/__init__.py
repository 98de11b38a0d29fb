"""The engine: everything that needs torch. It runs only in a worker's process, and it tells what
it does by events (a run) or by replies (the bench); it knows nothing of the page."""
