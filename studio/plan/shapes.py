"""The weights of a dense decoder, told from its config.json alone, by transformers' names."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from studio.plan.summary import Shape, number

# The families whose layers are attention and a gated feed-forward, and what each does in its own
# way. What is not here is not guessed.
_FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text", "smollm3",
    "granite",
)  # fmt: skip
_TIED_BY_DEFAULT = ("gemma", "gemma2", "gemma3_text", "smollm3")
_NORMED_HEADS = ("qwen3", "gemma3_text")
_FOUR_NORMS = ("gemma2", "gemma3_text")
_SOFTENED = ("final_logit_softcapping", "logits_scaling", "logit_scale")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
# What a config leaves out because transformers has it as the kind's default, where it is not a
# number that follows from the others.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "max_position_embeddings": 131_072,
    },
}  # fmt: skip
_DROPOUTS = ("attention_dropout", "resid_pdrop", "embd_pdrop")


@dataclass(frozen=True)
class Widths:
    """The widths of a decoder's layers; 0 throughout where the config does not say."""

    hidden: int
    inner: int
    query: int
    pair: int  # of the keys, and of the values
    heads: int
    normed: bool  # whether queries and keys have a norm of their own


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that is about text."""
    inner = config.get("text_config")
    held = inner if isinstance(inner, dict) else config
    return {**_DEFAULTS.get(str(held.get("model_type")), {}), **held}


def widths(config: dict[str, Any], hidden: int = 0) -> Widths:
    """The layers' widths; `hidden` where the config does not say it. Four times the hidden size is
    the usual inner width where nothing else is said."""
    config = text_config(config)
    hidden = number(config, "hidden_size") or hidden
    heads = number(config, "num_attention_heads")
    pairs = number(config, "num_key_value_heads") or heads
    width = number(config, "head_dim") or (hidden // heads if heads else 0)
    return Widths(
        hidden,
        number(config, "intermediate_size") or 4 * hidden,
        heads * width or hidden,
        pairs * width or hidden,
        heads,
        config.get("model_type") in _NORMED_HEADS,
    )


def is_mixture(config: dict[str, Any]) -> bool:
    """Whether its layers choose among experts."""
    return any(number(text_config(config), name) > 1 for name in _EXPERTS)


def unfit(config: dict[str, Any]) -> str:
    """Why the fast path does not know such a model, as far as its config tells; or nothing."""
    if is_mixture(config):
        return "the model is a mixture of experts"
    if "text_config" in config:
        return "the model is made for more than text, and its decoder is a part of it"
    held = text_config(config)
    if changed := [n for n in _SOFTENED if held.get(n) not in (None, 1, 1.0)]:
        return f"the model changes its logits ({changed[0]})"
    if held.get("attn_logit_softcapping") is not None:
        return "the model changes its attention's scores (attn_logit_softcapping)"
    dropped = [n for n in _DROPOUTS if held.get(n)]
    return f"the model has dropout of its own ({dropped[0]})" if dropped else ""


def unknown(config: dict[str, Any]) -> str:
    """Why it is not known before the run whether the fast path fits such a model, or nothing: only
    the layers themselves tell of a kind that is not among those here."""
    kind = text_config(config).get("model_type")
    if not config or kind in _FAMILIES:
        return ""
    return f"whether the fast path fits layers of the kind {kind} shows once they are loaded"


def shapes(config: dict[str, Any]) -> tuple[Shape, ...]:
    """Every weight; empty for a model of another kind than those that are known."""
    config = text_config(config)
    kind = config.get("model_type")
    if kind not in _FAMILIES or is_mixture(config):
        return ()
    found = widths(config)
    vocabulary, layers = number(config, "vocab_size"), number(config, "num_hidden_layers")
    made = [Shape("model.embed_tokens.weight", (vocabulary, found.hidden))]
    for layer in range(layers):
        made += [
            Shape(f"model.layers.{layer}.{name}", dims) for name, dims in _layer(config, found)
        ]
    made.append(Shape("model.norm.weight", (found.hidden,)))
    if not config.get("tie_word_embeddings", kind in _TIED_BY_DEFAULT):
        made.append(Shape("lm_head.weight", (vocabulary, found.hidden)))
    return tuple(made)


def _layer(config: dict[str, Any], found: Widths) -> Iterator[tuple[str, tuple[int, ...]]]:
    kind, h = config.get("model_type"), found.hidden
    if kind == "phi3":
        yield "self_attn.qkv_proj.weight", (found.query + 2 * found.pair, h)
        yield "mlp.gate_up_proj.weight", (2 * found.inner, h)
    else:
        projections = {"q_proj": found.query, "k_proj": found.pair, "v_proj": found.pair}
        for name, width in projections.items():
            yield f"self_attn.{name}.weight", (width, h)
            if kind == "qwen2" or config.get("attention_bias"):
                yield f"self_attn.{name}.bias", (width,)
        yield "mlp.gate_proj.weight", (found.inner, h)
        yield "mlp.up_proj.weight", (found.inner, h)
    yield "self_attn.o_proj.weight", (h, found.query)
    if config.get("attention_bias") and kind not in ("qwen2", "phi3"):
        yield "self_attn.o_proj.bias", (h,)
    yield "mlp.down_proj.weight", (h, found.inner)
    if found.normed:
        width = found.query // found.heads
        yield "self_attn.q_norm.weight", (width,)
        yield "self_attn.k_norm.weight", (width,)
    yield "input_layernorm.weight", (h,)
    yield "post_attention_layernorm.weight", (h,)
    if kind in _FOUR_NORMS:
        yield "pre_feedforward_layernorm.weight", (h,)
        yield "post_feedforward_layernorm.weight", (h,)
