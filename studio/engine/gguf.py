"""A GGUF file as the base of a run: its weights unpacked once, into a folder like any other."""

from pathlib import Path

from studio.engine.explain import first_line
from studio.engine.report import Report
from studio.errors import StudioError
from studio.plan.model import unpacked_folder
from studio.runs import files
from studio.runs.lock import try_lock
from studio.settings import Settings


def unpack(gguf: Path, settings: Settings, report: Report) -> Path:
    """The folder with the file's weights in bfloat16 and its tokenizer, made first where it is not
    there. Raises StudioError for a file that transformers can't read."""
    folder = unpacked_folder(gguf, settings)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with try_lock(folder.with_name(f".{folder.name}.lock")) as ours:
        if (folder / "config.json").is_file():
            return folder
        if not ours:
            raise StudioError(
                f"{gguf.name} is being unpacked by another process.", "Try again in a minute."
            )
        with files.whole_folder(folder) as aside:
            _convert(gguf, aside, report)
    return folder


def _convert(gguf: Path, target: Path, report: Report) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    text = f"unpacking {gguf.name}"
    report.stage(f"{text}: the tokenizer", 0, 3)
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        report.stage(f"{text}: the weights", 1, 3)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            # Without this the weights stay packed, and packed ones are neither trained nor saved.
            quantization_config=GgufConfig(dequantize=True),
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    # Each kind of file fails in its own way.
    except Exception as error:
        raise StudioError(
            f"{gguf.name} can't be read: {first_line(error)}",
            "transformers reads GGUF files of the architectures that it knows; take the model's "
            "safetensors otherwise.",
        ) from error
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    report.stage(f"{text}: writing them", 2, 3)
    model.save_pretrained(target)
    tokenizer.init_kwargs.pop("is_local", None)
    tokenizer.save_pretrained(target)
