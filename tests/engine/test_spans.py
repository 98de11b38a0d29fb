"""From letters to tokens, for tokenizers of every make: a token is learned if it begins inside."""

import random
from collections.abc import Callable

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from studio.engine.encode import _from

CORPUS = ["What is your name? My name is Bramble " * 3, "a   wide   line", "پایتخت ایران تهران است"]
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_end|>"]
PARTS = (
    "plain", " spaces ", "\n\nlines\n", "👩‍👩‍👧 fam", "پایتخت ایران", "<|im_end|>", "<|end|>", "é́",
    "\u200f\u202eabc", "a", "  ", "</s>", "ﬁ", "½ ①", "\x00", "日本語",
)  # fmt: skip


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(made, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, **_HOW))


def byte_fallback() -> Tokenizer:
    """As Llama 2 has it: a space is put before the text."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    how = {**_HOW, "special_tokens": [*SPECIAL, *(f"<0x{n:02X}>" for n in range(256))]}
    return _trained(made, trainers.BpeTrainer(vocab_size=500, **how))


def unigram() -> Tokenizer:
    """As T5 has it: characters are made others, some of them several."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return _trained(made, trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", **_HOW))


def word_piece() -> Tokenizer:
    """As BERT has it: spaces and control characters are in no token."""
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _trained(made, trainers.WordPieceTrainer(vocab_size=300, **_HOW))


def greedy_marks() -> Tokenizer:
    """As Phi-3 has it: a mark takes the spaces around it."""
    made = byte_level()
    made.add_special_tokens([AddedToken("<|end|>", special=True, lstrip=True, rstrip=True)])
    return made


_HOW = {"special_tokens": SPECIAL, "show_progress": False}


def _trained(made: Tokenizer, trainer: object) -> Tokenizer:
    made.train_from_iterator(CORPUS, trainer)
    return made


@pytest.mark.parametrize(
    "make", [byte_level, byte_fallback, unigram, word_piece, greedy_marks], ids=lambda m: m.__name__
)
def test_a_token_is_learned_if_it_begins_inside(make: Callable[[], Tokenizer]) -> None:
    tokenizer, dice = make(), random.Random(1)
    for _ in range(1000):
        text = "".join(dice.choice(PARTS) for _ in range(dice.randint(1, 8)))
        encoding = tokenizer.encode(text, add_special_tokens=False)
        start = dice.randint(0, len(text))
        end = dice.randint(start, len(text))
        first, last = _from(encoding, start, text), _from(encoding, end, text)
        learned = [first <= n < last for n in range(len(encoding))]
        assert learned == [start <= begin < end for begin, _ in encoding.offsets], text
