"""The fast path: LoRA training on one device with nothing but torch and the Hugging Face stack.

Frozen weights that are decoded only for their product, attention by document, layers that are
compiled once for all, a loss without logits, replayed layers, recorded steps. `FastTrainer.engage`
switches it on for a trainer, `apply` for a model; both answer why not where it does not fit.
"""

from studio.engine.fast.apply import Applied, apply
from studio.engine.fast.plan import Plan, Refused
from studio.engine.fast.trainer import FastTrainer

__all__ = ["Applied", "FastTrainer", "Plan", "Refused", "apply"]
