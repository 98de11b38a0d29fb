"""What training took on GPUs when it was measured, beside which the planner is held.

GiB by torch's allocator and tokens a second, as docs/performance.md has them (an H200) and, with
H100, the figures that it was held against. Rows of Alpaca, packed.
"""

from studio.plan.known import known_config

PACKED = ["train.packing=true", "train.max_length=2048", "adapter.r=16"]
_NF4, _PLAIN = "model.quantization=nf4", "train.engine=plain"
_KEPT = "train.activation_checkpointing=true"


def sizes(batch: int, passes: int = 1) -> list[str]:
    return [
        f"train.per_device_train_batch_size={batch}", f"train.gradient_accumulation_steps={passes}"
    ]  # fmt: skip


RECORDED: list[tuple[str, str, list[str], float, float | None]] = [
    ("h200", "llama", [*sizes(4), "fast.float8=true"], 33.46, 21_616),
    ("h200", "llama", [*sizes(4), _NF4], 30.31, 15_934),
    ("h200", "llama", sizes(2, 2), 28.31, 17_086),
    ("h200", "llama", [*sizes(1, 4), _NF4, "fast.replay=99", "fast.chunk=512"], 6.95, 11_590),
    ("h200", "qwen", [*sizes(4), "fast.float8=true"], 37.49, 22_445),
    ("h200", "qwen", [*sizes(4), _NF4], 34.35, 15_866),
    ("h200", "qwen", [*sizes(1, 4), _NF4, "fast.replay=99", "fast.chunk=512"], 7.35, 11_251),
    ("h200", "mistral", [*sizes(4), "fast.float8=true"], 32.25, 24_689),
    ("h200", "llama", [*sizes(10), "train.max_length=512", "adapter.r=64", "fast.float8=true"],
     26.77, 22_663),
    ("h200", "llama", [*sizes(5, 2), "train.max_length=512", "adapter.r=64", _NF4, _PLAIN, _KEPT],
     7.94, 3_950),
    ("h100", "llama", [*sizes(4), _NF4, _PLAIN, _KEPT], 10.1, 4_550),
    ("h100", "llama", [*sizes(4), _NF4, _PLAIN], 58.7, 6_303),
    ("h100", "llama", [*sizes(4), _PLAIN, _KEPT], 20.4, 4_304),
]  # fmt: skip
SHAPES = {
    "llama": known_config("meta-llama/Llama-3.1-8B"),
    "qwen": known_config("Qwen/Qwen3-8B"),
    "mistral": {**(known_config("mistralai/Mistral-7B-v0.1") or {}), "vocab_size": 49_152},
}
