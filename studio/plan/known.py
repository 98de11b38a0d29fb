"""The sizes of models that people fine-tune, so that a run can be planned before its model is
fetched. As their config.json has them; the counts that follow are held against the published ones
in the tests."""

from typing import Any

# type, hidden, intermediate, layers, heads, key-value heads, head width, vocabulary, tied, context
_Row = tuple[str, int, int, int, int, int, int, int, bool, int]
_SIZES: dict[str, _Row] = {
    "HuggingFaceTB/SmolLM2-135M": ("llama", 576, 1536, 30, 9, 3, 64, 49152, True, 8192),
    "HuggingFaceTB/SmolLM2-360M": ("llama", 960, 2560, 32, 15, 5, 64, 49152, True, 8192),
    "HuggingFaceTB/SmolLM2-1.7B": ("llama", 2048, 8192, 24, 32, 32, 64, 49152, True, 8192),
    "TinyLlama/TinyLlama-1.1B": ("llama", 2048, 5632, 22, 32, 4, 64, 32000, False, 2048),
    "meta-llama/Llama-2-7b": ("llama", 4096, 11008, 32, 32, 32, 128, 32000, False, 4096),
    "meta-llama/Llama-2-13b": ("llama", 5120, 13824, 40, 40, 40, 128, 32000, False, 4096),
    "meta-llama/Llama-3.2-1B": ("llama", 2048, 8192, 16, 32, 8, 64, 128256, True, 131072),
    "meta-llama/Llama-3.2-3B": ("llama", 3072, 8192, 28, 24, 8, 128, 128256, True, 131072),
    "meta-llama/Llama-3.1-8B": ("llama", 4096, 14336, 32, 32, 8, 128, 128256, False, 131072),
    "meta-llama/Llama-3.1-70B": ("llama", 8192, 28672, 80, 64, 8, 128, 128256, False, 131072),
    "mistralai/Mistral-7B-v0.1": ("mistral", 4096, 14336, 32, 32, 8, 128, 32000, False, 32768),
    "mistralai/Mistral-7B-v0.3": ("mistral", 4096, 14336, 32, 32, 8, 128, 32768, False, 32768),
    "Qwen/Qwen2.5-0.5B": ("qwen2", 896, 4864, 24, 14, 2, 64, 151936, True, 32768),
    "Qwen/Qwen2.5-1.5B": ("qwen2", 1536, 8960, 28, 12, 2, 128, 151936, True, 32768),
    "Qwen/Qwen2.5-3B": ("qwen2", 2048, 11008, 36, 16, 2, 128, 151936, True, 32768),
    "Qwen/Qwen2.5-7B": ("qwen2", 3584, 18944, 28, 28, 4, 128, 152064, False, 32768),
    "Qwen/Qwen2.5-14B": ("qwen2", 5120, 13824, 48, 40, 8, 128, 152064, False, 32768),
    "Qwen/Qwen2.5-32B": ("qwen2", 5120, 27648, 64, 40, 8, 128, 152064, False, 32768),
    "Qwen/Qwen3-0.6B": ("qwen3", 1024, 3072, 28, 16, 8, 128, 151936, True, 40960),
    "Qwen/Qwen3-1.7B": ("qwen3", 2048, 6144, 28, 16, 8, 128, 151936, True, 40960),
    "Qwen/Qwen3-4B": ("qwen3", 2560, 9728, 36, 32, 8, 128, 151936, True, 40960),
    "Qwen/Qwen3-8B": ("qwen3", 4096, 12288, 36, 32, 8, 128, 151936, False, 40960),
    "Qwen/Qwen3-14B": ("qwen3", 5120, 17408, 40, 40, 8, 128, 151936, False, 40960),
    "Qwen/Qwen3-32B": ("qwen3", 5120, 25600, 64, 64, 8, 128, 151936, False, 40960),
    "microsoft/Phi-3-mini-4k": ("phi3", 3072, 8192, 32, 32, 32, 96, 32064, False, 4096),
    "microsoft/phi-4": ("phi3", 5120, 17920, 40, 40, 10, 128, 100352, False, 16384),
    "google/gemma-2-2b": ("gemma2", 2304, 9216, 26, 8, 4, 256, 256000, True, 8192),
    "google/gemma-2-9b": ("gemma2", 3584, 14336, 42, 16, 8, 256, 256000, True, 8192),
}
# What the same model is called once it is tuned to chat, and under an older name.
_ENDINGS = ("-Instruct", "-instruct", "-Base", "-chat", "-chat-hf", "-hf", "-Chat-v1.0", "-it")
_ALIASES = {
    "meta-llama/Meta-Llama-3.1-8B": "meta-llama/Llama-3.1-8B",
    "meta-llama/Meta-Llama-3.1-70B": "meta-llama/Llama-3.1-70B",
    "meta-llama/Meta-Llama-3-8B": "meta-llama/Llama-3.1-8B",
    "mistralai/Mistral-7B-Instruct-v0.1": "mistralai/Mistral-7B-v0.1",
    "mistralai/Mistral-7B-Instruct-v0.2": "mistralai/Mistral-7B-v0.1",
    "mistralai/Mistral-7B-Instruct-v0.3": "mistralai/Mistral-7B-v0.3",
}


def known_config(name: str) -> dict[str, Any] | None:
    """The config.json, as far as planning reads it, of a model by its Hub id; None where it is not
    known here."""
    base = next((name.removesuffix(e) for e in _ENDINGS if name.endswith(e)), name)
    for candidate in (name, base):
        row = _SIZES.get(_ALIASES.get(candidate, candidate))
        if row is not None:
            return _config(row)
    return None


def _config(row: _Row) -> dict[str, Any]:
    kind, hidden, inner, layers, heads, pairs, width, vocabulary, tied, context = row
    return {
        "model_type": kind,
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": pairs,
        "head_dim": width,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "max_position_embeddings": context,
        **({"final_logit_softcapping": 30.0} if kind == "gemma2" else {}),
    }


KNOWN: tuple[str, ...] = tuple(_SIZES)
