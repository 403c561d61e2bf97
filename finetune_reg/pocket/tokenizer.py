"""A tokenizer whose vocabulary is the lexicon: one token per word, lower-cased, with BERT's special tokens."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from finetune_reg.pocket.inflection import participle_of, past_of, plural_of, third_person_of
from finetune_reg.pocket.lexicon import FUNCTION_WORDS, LEXICON, TIMES

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
RELATION_WORDS = ("indeed", "therefore", "perhaps", "however", "similarly", "meanwhile")
MAX_LENGTH = 64


def vocabulary() -> list[str]:
    """Special tokens, punctuation, relation words, then every form of every word in alphabetical order."""
    words = {word for group in LEXICON.synonyms.values() for word in group} | set(FUNCTION_WORDS)
    words |= {word for times in TIMES.values() for time in times for word in time.split()}
    nouns = [*LEXICON.parent, *LEXICON.children, *LEXICON.places]
    words |= {plural_of(word) for noun in nouns for word in LEXICON.synonyms[noun]}
    for verb in LEXICON.verbs:
        for word in LEXICON.synonyms[verb]:
            words |= {third_person_of(word), past_of(word), participle_of(word)}
    return [*SPECIAL_TOKENS, ".", ",", *RELATION_WORDS, *sorted(words)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """``[CLS] first [SEP]`` or ``[CLS] first [SEP] second [SEP]`` with token types 0 and 1."""
    ids = {word: index for index, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
