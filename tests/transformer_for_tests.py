"""A transformer that trains in a blink: two small layers in the place of the pretrained ones."""

from __future__ import annotations

import torch
from torch import nn
from transformers import BertConfig, BertModel

from xmc_explore import encoders


def small_transformer(monkeypatch) -> None:
    """Let `TransformerEncoder` have a BERT of 32 features, with dropout inside, that reads MiniLM's tokens."""
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)

    def load(name: str) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return BertModel(config)

    monkeypatch.setattr(encoders, "load_transformer", load)
