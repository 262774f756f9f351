"""The tokenizer inside a GGUF file, rebuilt as it was published."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pe_rlhf_mm.checkpoints.gguf_file import Fields
from pe_rlhf_mm.errors import UserError

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # types of tokens
SPACE = "\u2581"  # what SentencePiece writes for one
ROLES = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}  # ours, and in names of fields

# How text is cut before the merges, by `tokenizer.ggml.pre`.
CUTS = {
    "smollm": lambda: [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ],
}


def build(fields: Fields) -> Tokenizer:
    """The tokenizer. Raises UserError for a kind that is not known here."""
    kind = fields["tokenizer.ggml.model"]
    if kind not in BUILDERS:
        raise UserError(f"{fields.source} has a tokenizer of kind {kind!r}; supported: {', '.join(BUILDERS)}.")
    if fields.get("tokenizer.ggml.add_eos_token", False):
        raise UserError(f"{fields.source} has a tokenizer that ends every text with a token; that is not supported.")
    tokenizer = BUILDERS[kind](fields)
    if fields.get("tokenizer.ggml.add_bos_token", kind == "llama"):
        _begin_texts(tokenizer, fields)
    types = fields["tokenizer.ggml.token_type"]
    for added, special in ((CONTROL, True), (USER_DEFINED, False)):
        names = [token for token, type in zip(_tokens(fields), types, strict=True) if type == added]
        tokenizer.add_tokens([AddedToken(name, special=special, normalized=False) for name in names])
    return tokenizer


def special_ids(fields: Fields) -> dict[str, int]:
    """The ids of those of `bos`, `eos`, `pad` and `unk` that there are."""
    ids = {role: fields.get(f"tokenizer.ggml.{name}_token_id") for role, name in ROLES.items()}
    return {role: id for role, id in ids.items() if id is not None}


def settings(fields: Fields) -> dict[str, Any]:
    """What `tokenizer_config.json` says."""
    tokens = _tokens(fields)
    template = fields.get("tokenizer.chat_template")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": fields.of_model("context_length"),
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": tokens[id] for role, id in special_ids(fields).items()},
        **({"chat_template": template} if template else {}),
    }


def _tokens(fields: Fields) -> list[str]:
    """The vocabulary in the order of ids."""
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    if fields["tokenizer.ggml.model"] != "llama":
        return tokens
    # llama.cpp writes real spaces in the tokens that its users define, among them those for runs of spaces.
    types = fields["tokenizer.ggml.token_type"]
    return [
        token.replace(" ", SPACE) if type == USER_DEFINED else token for token, type in zip(tokens, types, strict=True)
    ]


def _vocabulary(fields: Fields) -> dict[str, int]:
    return {token: id for id, token in enumerate(_tokens(fields))}


def _byte_level(fields: Fields) -> Tokenizer:
    cut = fields["tokenizer.ggml.pre"]
    if cut not in CUTS:
        raise UserError(f"{fields.source} has a tokenizer that cuts text like {cut!r}; supported: {', '.join(CUTS)}.")
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=_vocabulary(fields), merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(CUTS[cut]())
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(fields: Fields) -> Tokenizer:
    if fields.get("tokenizer.ggml.add_space_prefix", True):
        raise UserError(f"{fields.source} has a tokenizer that puts a space before every text; that is not supported.")
    unknown = _tokens(fields)[fields["tokenizer.ggml.unknown_token_id"]]
    model = models.BPE(
        vocab=_vocabulary(fields), merges=list(_merges(fields)), unk_token=unknown, fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _merges(fields: Fields) -> Iterator[tuple[str, str]]:
    """Every way to put a piece together from two, best pieces first: SentencePiece keeps scores in place of merges."""
    vocabulary = _vocabulary(fields)
    types, scores = fields["tokenizer.ggml.token_type"], fields["tokenizer.ggml.scores"]
    found = []
    for piece, id in vocabulary.items():
        if types[id] not in (NORMAL, USER_DEFINED):
            continue
        # llama.cpp overwrites the score of what users define; it was 0, the best.
        score = scores[id] if types[id] == NORMAL else 0.0
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((score, left, right))
    # Longer left parts first: so a run of spaces grows into one token.
    found.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    return ((left, right) for _, left, right in found)


def _begin_texts(tokenizer: Tokenizer, fields: Fields) -> None:
    id = fields["tokenizer.ggml.bos_token_id"]
    bos = _tokens(fields)[id]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, id)]
    )


BUILDERS = {"gpt2": _byte_level, "llama": _sentence_piece}  # by `tokenizer.ggml.model`
