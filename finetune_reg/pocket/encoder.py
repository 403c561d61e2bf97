"""The architecture of the pocket encoder: BERT, 4 layers of width 128, about a million parameters."""

from transformers import BertConfig

from finetune_reg.pocket.tokenizer import MAX_LENGTH, vocabulary


def pocket_config() -> BertConfig:
    """The configuration, with BERT's own dropout of 0.1."""
    return BertConfig(
        vocab_size=len(vocabulary()),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=MAX_LENGTH,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        pad_token_id=0,
    )
