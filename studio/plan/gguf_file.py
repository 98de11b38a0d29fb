"""What a GGUF file says about its model, read from its header."""

from pathlib import Path
from typing import Any

from studio.errors import StudioError


def read(path: Path) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...]]]]:
    """The model's sizes under the names that config.json has for them, and each weight's name and
    dimensions. Raises StudioError for a file that is none."""
    # Imported here: it brings numpy's memory maps, which no other model needs.
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        architecture = str(reader.fields["general.architecture"].contents())
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise StudioError(
            f"{path.name} is no GGUF file that can be read: {error}.", "Copy or download it again."
        ) from None

    def number(name: str) -> int:
        field = reader.fields.get(f"{architecture}.{name}")
        return int(field.contents()) if field is not None else 0

    tensors = [
        (str(t.name), tuple(int(size) for size in reversed(t.shape))) for t in reader.tensors
    ]
    vocabulary = next((dims[0] for name, dims in tensors if name == "token_embd.weight"), 0)
    config = {
        "architectures": [architecture.capitalize()],
        "num_hidden_layers": number("block_count"),
        "hidden_size": number("embedding_length"),
        "intermediate_size": number("feed_forward_length"),
        "num_attention_heads": number("attention.head_count"),
        "num_key_value_heads": number("attention.head_count_kv"),
        "max_position_embeddings": number("context_length"),
        "vocab_size": vocabulary,
    }
    return config, tensors
