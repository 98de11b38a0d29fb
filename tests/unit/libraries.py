"""Run by the fixture `libraries`: prints the names that trl, peft and transformers know, and how
many parameters peft trains in tiny models, which it saves in the folder given.

A module of Python, not a test.
"""

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

CASES: dict[str, dict[str, Any]] = {
    "all-linear": {"r": 16, "target_modules": "all-linear"},
    "two targets": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "one of the mlp": {"r": 3, "target_modules": ["down_proj"]},
    "dora": {"r": 8, "target_modules": "all-linear", "use_dora": True},
    "biases of the targets": {"r": 2, "target_modules": ["q_proj"], "bias": "lora_only"},
    "all biases": {"r": 2, "target_modules": ["q_proj"], "bias": "all"},
}


def _counts(folder: Path) -> dict[str, dict[str, int]]:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    size: dict[str, Any] = {
        "vocab_size": 97, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    models = {
        "llama": LlamaForCausalLM(LlamaConfig(**size)),
        "llama-tied": LlamaForCausalLM(LlamaConfig(**size, tie_word_embeddings=True)),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**size)),
    }
    counts: dict[str, dict[str, int]] = {}
    for name, model in models.items():
        model.save_pretrained(folder / name)
        for case, options in CASES.items():
            adapted = get_peft_model(type(model)(model.config), LoraConfig(**options))
            counts.setdefault(name, {})[case] = adapted.get_nb_trainable_parameters()[0]
        counts[name]["parameters"] = model.num_parameters()
    return counts


def main(folder: Path) -> None:
    from peft import LoraConfig
    from transformers import GenerationConfig
    from trl import DPOConfig, KTOConfig, SFTConfig

    told = {
        "SFTConfig": [f.name for f in fields(SFTConfig)],
        "DPOConfig": [f.name for f in fields(DPOConfig)],
        "KTOConfig": [f.name for f in fields(KTOConfig)],
        "LoraConfig": [f.name for f in fields(LoraConfig)],
        "GenerationConfig": list(vars(GenerationConfig())),
        "counts": _counts(folder),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
