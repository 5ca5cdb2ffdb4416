"""SASRec: a causal Transformer over item ids, trained on the next item at every position.

Source: "Self-Attentive Sequential Recommendation", ICDM 2018. The block is RecGPT's, so the two differ in users,
segments and prompts only. The paper's one-negative loss is `loss: bce` of a recipe.
"""

from typing import ClassVar

from torch import Tensor, nn

from model.generation.tokens import Tokens
from model.networks.layers import init_weights
from model.networks.one_pass import CausalTrained
from model.networks.transformer import Transformer, TransformerConfig


class SASRec(CausalTrained):
    kind: ClassVar[str] = "sasrec"

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(config.num_items + 2, config.dim, padding_idx=0)
        self.transformer = Transformer(config)
        self.apply(init_weights)

    def states(self, tokens: Tokens) -> Tensor:
        return self.transformer(self.items(tokens.rows))  # type: ignore[no-any-return]
