"""What a model's tokenizers and text towers make of prompts: each is encoded once."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from tokenizers.decoders import ByteLevel

from multierase.errors import ConceptRefused
from multierase.models.conditioning import Conditioning

logger = logging.getLogger(__name__)

ATTEMPTS = 1000
SHORTEST = 3  # letters of a word; shorter ones are mostly scraps
TOKENS_AT_ONCE = 2**14  # a text tower is no faster with more, and takes more memory
LEARNED = 0.5  # of the median distance from the mean embedding; a nearer one was never trained

PLACEHOLDER = "█"  # in no chat template

Encode = Callable[[list[str]], Mapping[str, torch.Tensor]]
"""Encodes prompts into named tensors, batch first: ``(b, l, d)`` tokens or ``(b, d)`` vectors."""


class Span(NamedTuple):
    """The rows of a stream that one tokenizer has there, for one prompt.

    Args:
        rows: ``(l, d)``.
        read: how many of them are the prompt's: begin and end are, padding is not.
        last: the row of the last word.
    """

    rows: torch.Tensor
    read: int
    last: int


@dataclass
class PromptReader:
    """A tokenizer, and how much of a prompt it is asked to read.

    Args:
        tokenizer: of transformers.
        limit: tokens, begin and end included; by default the tokenizer's own.
    """

    tokenizer: Any
    limit: int | None = None

    @property
    def max_length(self) -> int:
        return self.limit or self.tokenizer.model_max_length

    @property
    def begin(self) -> int:
        """The number of tokens before a prompt's first: CLIP has one, T5 none."""
        return self.tokenizer.num_special_tokens_to_add() - self.end

    @property
    def end(self) -> int:
        """The number of tokens after a prompt's last."""
        return 1

    def ids(self, prompt: str) -> list[int]:
        """Return all of a prompt's tokens, begin and end included, as long as it may be."""
        return self.tokenizer(prompt, truncation=False, verbose=False).input_ids

    def own_ids(self, prompt: str) -> list[int]:
        """Return the same without begin and end."""
        return self.ids(prompt)[self.begin : -self.end]

    def count(self, prompt: str) -> int:
        """Return the number of a prompt's tokens that are read, begin and end included."""
        return min(len(self.ids(prompt)), self.max_length)

    def last(self, prompt: str) -> int:
        """Return the place of a prompt's last word that is read; 0 if there is none."""
        return max(self._stop(prompt) - 1, 0)

    def own_count(self, prompt: str) -> int:
        """Return the number of a prompt's tokens that are read, without begin and end."""
        return self._stop(prompt) - self.begin

    def reads_as(self, other: PromptReader) -> bool:
        """Return whether both read the same of any prompt, but for the padding."""
        return type(self) is type(other) and self._rules == other._rules

    @cached_property
    def _rules(self) -> tuple:
        """All that says how a prompt is read; of a tokenizer that cannot say it, itself."""
        tokenizer = getattr(self.tokenizer, "backend_tokenizer", None)
        if tokenizer is None:
            return (self.tokenizer,)

        rules = json.loads(tokenizer.to_str())
        own = {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
        return own, self.max_length, self.tokenizer.unk_token_id

    def reads_whole(self, prompt: str) -> bool:
        """Return whether the tokenizer represents the whole prompt and cuts nothing off."""
        ids = self.ids(prompt)
        if len(ids) > self.max_length:
            return False

        return self.tokenizer.unk_token_id not in ids[self.begin : -self.end]

    def warn_if_cut(self, prompt: str) -> None:
        """Log a warning if a prompt is longer than is read."""
        ids = self.ids(prompt)
        if len(ids) <= self.max_length:
            return

        logger.warning(
            "prompt %r has %d tokens, the tokenizer's limit is %d: ignored %r",
            prompt,
            len(ids),
            self.max_length,
            self.tokenizer.decode(self._left_out(ids)),
        )

    def require_representable(self, prompt: str) -> None:
        """Raise ``ValueError`` if the tokenizer has no token for a part of ``prompt``, or none."""
        ids, unknown = self.own_ids(prompt), self.tokenizer.unk_token_id
        if ids and (unknown is None or unknown not in ids):
            return

        tokens = self.tokenizer.convert_ids_to_tokens(ids)
        raise ValueError(
            f"the base's tokenizer cannot represent {prompt!r} (tokens {tokens}): spell it in "
            "characters that it knows, as in 'Noto'"
        )

    def words(self, embeddings: torch.Tensor) -> list[str]:
        """Return the tokenizer's whole words, in lower case, in its own order: by frequency.

        A token that was never trained is left out: its embedding is still near the mean of all.

        Args:
            embeddings: ``(tokens, d)`` of its text tower.
        """
        table = embeddings.detach().float().cpu()
        far = (table - table.mean(0)).norm(dim=1)
        learned = far > LEARNED * far.median()

        vocabulary = self.tokenizer.get_vocab()
        whole = whole_word_of(vocabulary)
        words: dict[str, None] = {}
        for token, index in sorted(vocabulary.items(), key=lambda item: item[1]):
            word = whole(token)
            if word and index < len(table) and learned[index]:
                words.setdefault(word.lower())

        return list(words)

    def _stop(self, prompt: str) -> int:
        """Return the place after a prompt's last token that is read; the end is not its own."""
        return self.count(prompt) - self.end

    def _left_out(self, ids: list[int]) -> list[int]:
        """Return the tokens that are cut off; the end stays."""
        return ids[self.max_length - self.end : -self.end]


class ChatReader(PromptReader):
    """A tokenizer that reads a prompt as what a user says in a chat, without thinking about it.

    Its chat template puts tokens before the prompt and after it, as begin and end. A prompt that is
    too long is cut together with its end.
    """

    @property
    def begin(self) -> int:
        return self._around[0]

    @property
    def end(self) -> int:
        return self._around[1]

    def ids(self, prompt: str) -> list[int]:
        return super().ids(self._chat(prompt))

    @cached_property
    def _around(self) -> tuple[int, int]:
        before, _, after = self._chat(PLACEHOLDER).partition(PLACEHOLDER)

        return len(super().ids(before)), len(super().ids(after))

    def _chat(self, prompt: str) -> str:
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )

    def _stop(self, prompt: str) -> int:
        return min(len(self.ids(prompt)) - self.end, self.max_length)

    def _left_out(self, ids: list[int]) -> list[int]:
        return ids[self.max_length :]


class Text:
    """The text side of a model.

    Args:
        readers: all that read a prompt; the first one's words are the model's.
        tower: the first one's text tower.
        encode: encodes prompts as the checkpoint's own pipeline does.
        spans: by stream of tokens: the rows of each reader that has some there, by its place in
            ``readers``. Any other stream has one vector for a prompt.
    """

    def __init__(
        self,
        readers: Sequence[PromptReader],
        tower: torch.nn.Module,
        encode: Encode,
        spans: Mapping[str, Mapping[int, slice]],
    ):
        self.readers, self.tower = list(readers), tower
        self._encode, self._spans = encode, spans
        self._cache: dict[str, dict[str, torch.Tensor]] = {}

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts; one that was asked for before is remembered."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._cache]
        if missing:
            self.warn_if_cut(missing)
            streams = self.fresh(missing)
            for place, prompt in enumerate(missing):
                self._cache[prompt] = {name: streams[name][place] for name in streams}

        found: dict[str, list[torch.Tensor]] = {}
        for prompt in prompts:
            for name, rows in self._cache[prompt].items():
                found.setdefault(name, []).append(rows)
        return Conditioning({name: torch.stack(rows) for name, rows in found.items()})

    @torch.no_grad()
    def fresh(self, prompts: Sequence[str]) -> Conditioning:
        """Do as a call does, and remember nothing; prompts that are too long are cut silently."""
        longest = max(reader.max_length for reader in self.readers)
        at_once, parts = max(TOKENS_AT_ONCE // longest, 1), []
        for start in range(0, len(prompts), at_once):
            parts.append(Conditioning(self._encode(list(prompts[start : start + at_once]))))

        return Conditioning.cat(parts)

    def spans(self, prompt: str, stream: str) -> list[Span]:
        """Return the rows of each tokenizer; a vector is one row, and all the prompt's."""
        said = self([prompt])[stream][0]
        if stream not in self._spans:
            return [Span(said[None], 1, 0)]

        found = []
        for place, rows in self._spans[stream].items():
            reader = self.readers[place]
            found.append(Span(said[rows], reader.count(prompt), reader.last(prompt)))
        return found

    def own_tokens(self, prompts: Sequence[str], stream: str) -> torch.Tensor:
        """Return ``(n, d)``: the prompts' tokens, end tokens included, begin and padding not."""
        begins = [self.readers[place].begin for place in self._spans.get(stream, {})] or [0]
        rows = []
        for prompt in dict.fromkeys(prompts):
            for span, begin in zip(self.spans(prompt, stream), begins, strict=True):
                rows.append(span.rows[begin : span.read])

        return torch.cat(rows)

    def reads_whole(self, prompt: str) -> bool:
        """Return whether every tokenizer represents the whole prompt and cuts nothing off."""
        return all(reader.reads_whole(prompt) for reader in self._apart)

    @cached_property
    def _apart(self) -> list[PromptReader]:
        """The readers without those that read as one before them: two CLIPs share their words."""
        found: list[PromptReader] = []
        for reader in self.readers:
            if not any(reader.reads_as(other) for other in found):
                found.append(reader)

        return found

    def require_representable(self, prompt: str) -> None:
        """Raise ``ValueError`` if a tokenizer has no token for a part of ``prompt``, or none."""
        for reader in self.readers:
            reader.require_representable(prompt)

    def warn_if_cut(self, prompts: Sequence[str]) -> None:
        """Log a warning for each prompt that is longer than is read."""
        for prompt in prompts:
            for reader in self.readers:
                reader.warn_if_cut(prompt)

    @cached_property
    def words(self) -> list[str]:
        """Return the first tokenizer's whole words."""
        embeddings: Any = self.tower.get_input_embeddings()  # type: ignore[operator]

        return self.readers[0].words(embeddings.weight)

    def name_of_tokens(self, count: int, rng: random.Random, without: Collection[str] = ()) -> str:
        """Return a made-up name of ``count`` tokens, as near as can be: words run together.

        Args:
            without: words that mean something, and are used only where there are no others.
        """
        words, nearest, least = self.words, "", None
        if not words:
            raise ConceptRefused(
                "this base's tokenizer has no whole words to make up names of, so whether the base "
                "draws a concept cannot be tried: give its --prompts"
            )
        for _ in range(ATTEMPTS):
            parts = rng.choices(words, k=rng.randint(1, count))
            if any(part in without for part in parts):
                continue
            name = "".join(parts)
            found = len(self.readers[0].own_ids(name))
            if found == count:
                return name
            if least is None or abs(found - count) < least:
                nearest, least = name, abs(found - count)

        return nearest if least is not None else self.name_of_tokens(count, rng)


def whole_word_of(vocabulary: Collection[str]) -> Callable[[str], str | None]:
    """Return what gives a token's word, or ``None`` for a token that is no whole word.

    Tokenizers mark words in one of four ways: CLIP at the word's end (``cat</w>``), SentencePiece
    and byte-level BPE at its beginning (``▁cat``, ``Ġcat``), WordPiece every piece but the first
    (``##at``). Byte-level BPE has a letter for each byte: a letter of another script is several.
    """
    ends = any(token.endswith("</w>") for token in vocabulary)
    begins = next((mark for mark in "▁Ġ" if any(t.startswith(mark) for t in vocabulary)), "")
    read = ByteLevel().decode if begins == "Ġ" else "".join

    def whole(token: str) -> str | None:
        word = token.removesuffix("</w>") if ends else token.removeprefix(begins)
        marked = word != token if ends or begins else not token.startswith("##")
        word = read([word])
        return word if marked and word.isalpha() and len(word) >= SHORTEST else None

    return whole
