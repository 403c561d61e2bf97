"""Documents as tensors, and the words hidden from the encoder during pretraining."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune_reg.pocket.corpus import Document
from finetune_reg.pocket.inflection import participle_of, past_of, third_person_of
from finetune_reg.pocket.lexicon import LEXICON
from finetune_reg.pocket.tokenizer import SPECIAL_TOKENS, build_tokenizer, vocabulary

PAD, CLS, SEP, MASK = (SPECIAL_TOKENS.index(token) for token in ("[PAD]", "[CLS]", "[SEP]", "[MASK]"))
AGREEING = {"a", "an", "this", "that", "these", "those", "do", "does", "is", "are", "was", "were", "every", "all"}


@dataclass(frozen=True)
class Corpus:
    """Tokenized documents, padded to the longest."""

    token_ids: Tensor  # (documents, longest), int16
    lengths: Tensor  # (documents,)
    second_start: Tensor  # (documents,) where the second sentence starts; `longest` for a single sentence
    relation: Tensor  # (documents,) token id of the relation word, 0 for a single sentence
    relation_at: Tensor  # (documents,) where it is asked for: its place, or 0 for [CLS] if it is not written

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True)
class MaskedBatch:
    """Model inputs and the original tokens; ``asked`` marks the positions to predict."""

    input_ids: Tensor  # all (batch, length)
    attention_mask: Tensor
    token_type_ids: Tensor
    labels: Tensor
    asked: Tensor
    relation_asked: Tensor


def tokenize_corpus(documents: Iterable[Document]) -> Corpus:
    """Turn documents into tensors."""
    tokenizer = build_tokenizer()
    documents = list(documents)
    texts = [document.first if document.second is None else document[:2] for document in documents]
    chunks = (texts[start : start + 10_000] for start in range(0, len(texts), 10_000))
    encode = tokenizer.backend_tokenizer.encode_batch_fast
    rows = [encoding.ids for chunk in chunks for encoding in encode(chunk)]
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max())
    token_ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows], dtype=torch.int16)
    is_pair = (token_ids == SEP).sum(1) == 2
    second_start = torch.where(is_pair, (token_ids == SEP).int().argmax(1) + 1, longest)
    written = torch.tensor([document.written for document in documents])
    relation = torch.tensor([tokenizer.convert_tokens_to_ids(document.relation or "[PAD]") for document in documents])
    return Corpus(token_ids, lengths, second_start, relation, torch.where(written, second_start, 0))


def masking_rates() -> Tensor:
    """How often each word of the vocabulary is masked: words that show agreement twice as often as the others."""
    verb_forms = {
        form
        for verb in LEXICON.verbs
        for word in LEXICON.synonyms[verb]
        for form in (word, third_person_of(word), past_of(word), participle_of(word))
    }
    grammatical = verb_forms | AGREEING
    rates = torch.tensor([0.3 if word in grammatical else 0.15 for word in vocabulary()])
    rates[[PAD, CLS, SEP]] = 0.0
    return rates


def mask_batch(corpus: Corpus, rows: Tensor, rates: Tensor, generator: torch.Generator) -> MaskedBatch:
    """Hide words of the documents ``rows``.

    In three pairs of four the relation word is asked for, and fewer of the other words are hidden, so that it can be
    told. Hidden words become ``[MASK]``; outside the relation word, one in five of them is left as it is or replaced
    by a random word, as in BERT.
    """
    length = int(corpus.lengths[rows].max())
    tokens = corpus.token_ids[rows, :length].long()
    position = torch.arange(length)
    second_start, relation_at = corpus.second_start[rows, None], corpus.relation_at[rows, None]

    def chance(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    ask_relation = (chance(len(rows), 1) < 0.75) & (second_start < length)
    at_relation = position == relation_at
    relation_asked = ask_relation & at_relation
    rate = rates[tokens] * torch.where(ask_relation, 0.5, 1.0)
    words_asked = (chance(*tokens.shape) < rate) & ~at_relation

    fate = chance(*tokens.shape)
    random_words = torch.randint(len(SPECIAL_TOKENS), len(rates), tokens.shape, generator=generator)
    hidden = torch.where(fate < 0.8, MASK, torch.where(fate < 0.9, random_words, tokens))
    input_ids = torch.where(words_asked, hidden, tokens)
    input_ids = torch.where(relation_asked & (tokens != CLS), MASK, input_ids)
    return MaskedBatch(
        input_ids,
        (tokens != PAD).long(),
        ((position >= second_start) & (tokens != PAD)).long(),
        torch.where(relation_asked, corpus.relation[rows, None], tokens),
        words_asked | relation_asked,
        relation_asked,
    )


def endless_batches(corpus: Corpus, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of one batch after another, neighbours in length together, every document once before any comes again."""
    while True:
        order = torch.randperm(len(corpus), generator=generator)
        for chunk in order.split(50 * batch_size):
            by_length = chunk[corpus.lengths[chunk].argsort()]
            batches = by_length.split(batch_size)
            for index in torch.randperm(len(batches), generator=generator):
                yield batches[index]
