"""Run by the fixture `libraries`: prints the names that trl, peft and transformers know, and how
many parameters peft trains in tiny models, which it saves in the folder given.

A module of Python, not a test.
"""

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any


def _method(method: str, **own: Any) -> dict[str, Any]:
    return {"adapter": {"method": method}, **({method: own} if own else {})}


_TWO = {"target_modules": ["q_proj", "down_proj"]}
CASES: dict[str, dict[str, Any]] = {
    "all-linear": {"adapter": {"r": 16}},
    "two targets": {"adapter": {"r": 4, "target_modules": ["q_proj", "v_proj"]}},
    "one of the mlp": {"adapter": {"r": 3, "target_modules": ["down_proj"]}},
    "dora": {"adapter": {"r": 8, "use_dora": True}},
    "biases of the targets": {"adapter": {"r": 2, **_TWO, "bias": "lora_only"}},
    "all biases": {"adapter": {"r": 2, **_TWO, "bias": "all"}},
    "one layer": {"adapter": {"r": 2, "layers_to_transform": [1]}},
    "ranks by layer": {"adapter": {"r": 2, "rank_pattern": {"q_proj": 5, "0.mlp.up_proj": 7}}},
    "the head as well": {"adapter": {"r": 2, "modules_to_save": ["lm_head"]}},
    "the ends as well": {"adapter": {"r": 2, "modules_to_save": ["embed_tokens", "norm"]}},
    "adalora": _method("adalora", init_r=5, target_r=3),
    "ia3": _method("ia3"),
    "ia3, other inputs": {
        "adapter": {"method": "ia3", **_TWO},
        "ia3": {"feedforward_modules": ["q_proj"]},
    },
    "loha": _method("loha", r=3),
    "lokr": _method("lokr", r=2),
    "lokr, both low": _method("lokr", r=1, decompose_both=True),
    "lokr, another factor": _method("lokr", r=2, decompose_factor=5),
    "oft": _method("oft", oft_block_size=8),
    "oft, shared": _method("oft", oft_block_size=4, block_share=True, bias="oft_only"),
    "vera": _method("vera", r=7),
    "prompt": _method("prompt_tuning", num_virtual_tokens=5, prompt_tuning_init="RANDOM"),
    "prefix": _method("prefix_tuning", num_virtual_tokens=5),
    "prefix, projected": _method(
        "prefix_tuning", num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=9
    ),
    "p-tuning": _method("p_tuning", num_virtual_tokens=5, encoder_hidden_size=9),
    "p-tuning, lstm": _method(
        "p_tuning", encoder_reparameterization_type="LSTM", encoder_num_layers=3,
        encoder_hidden_size=9,
    ),
    "multitask": _method(
        "multitask_prompt_tuning", num_virtual_tokens=5, num_ranks=3, prompt_tuning_init="RANDOM"
    ),
    "full": _method("none"),
}  # fmt: skip
METHODS = {
    "LoraConfig": "lora", "AdaLoraConfig": "adalora", "IA3Config": "ia3", "LoHaConfig": "loha",
    "LoKrConfig": "lokr", "OFTConfig": "oft", "VeraConfig": "vera",
    "PromptTuningConfig": "prompt_tuning", "PrefixTuningConfig": "prefix_tuning",
    "PromptEncoderConfig": "p_tuning", "MultitaskPromptTuningConfig": "multitask_prompt_tuning",
}  # fmt: skip


def _counts(folder: Path) -> dict[str, dict[str, int]]:
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    from studio.engine.adapters import adapter_config, count
    from studio.spec import parse

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
        for case, tree in CASES.items():
            fresh = type(model)(model.config)
            config = adapter_config(parse(tree), fresh, {})
            adapted = get_peft_model(fresh, config) if config else fresh
            counts.setdefault(name, {})[case] = count(adapted)[0]
        counts[name]["parameters"] = model.num_parameters()
    return counts


def main(folder: Path) -> None:
    import peft
    from transformers import GenerationConfig
    from trl import DPOConfig, GRPOConfig, KTOConfig, RewardConfig, SFTConfig
    from trl.experimental.orpo import ORPOConfig

    told = {
        "SFTConfig": [f.name for f in fields(SFTConfig)],
        "DPOConfig": [f.name for f in fields(DPOConfig)],
        "KTOConfig": [f.name for f in fields(KTOConfig)],
        "ORPOConfig": [f.name for f in fields(ORPOConfig)],
        "RewardConfig": [f.name for f in fields(RewardConfig)],
        "GRPOConfig": [f.name for f in fields(GRPOConfig)],
        **{name: [f.name for f in fields(getattr(peft, name))] for name in METHODS},
        "GenerationConfig": list(vars(GenerationConfig())),
        "counts": _counts(folder),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    # Run by its path, it would not find the studio.
    sys.path.insert(0, str(Path.cwd()))
    main(Path(sys.argv[1]))
