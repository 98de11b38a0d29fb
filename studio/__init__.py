"""Atelier: a studio in the browser for fine-tuning chat models."""

__version__ = "0.1.0"
