"""The data pipeline: pairs and pictures a second, cold and warm, in the training process and by worker processes.

    python benchmarks/data.py [CHECKPOINT] [--rounds 5] [--pairs 4096]

Pairs are TL;DR-shaped: about 350 words of English (out of Python's own manual) and two replies of about 30, as JSON
Lines. CHECKPOINT's tokenizer is used (SmolLM2's: `pe-rlhf models fetch smollm2-135m`), or tiny-vlm's. Pictures are the
4,000 training pictures of easy-VQA, opened and cut into the patches of tiny-vlm.

What is timed is the stream of batches once it flows, not the seconds in which worker processes start; `cold` begins
with nothing cached and `warm` with the files or the memory of the round before. Every round runs all measurements in
turn; printed are the median and the slowest and fastest of the rounds. Whatever else the machine does counts against
us: the load of the minute before and after is printed too.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pe_rlhf_mm.data.cache import Columns, Table, encode_once, ragged
from pe_rlhf_mm.data.images import Gallery, open_image, views_of
from pe_rlhf_mm.data.order import Batch, BucketedOrder, choose_buckets
from pe_rlhf_mm.data.pipeline import ordered_batches
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.data.sources.json_lines import JsonLines
from pe_rlhf_mm.models.config import VisionConfig
from pe_rlhf_mm.models.model import load_model
from pe_rlhf_mm.types import Image, Message

BATCH, WORKERS = 64, 2
CONTEXT = 4096
"""Longer than any pair, whatever the tokenizer."""
PACKAGES = ("grain", "tokenizers", "transformers", "pillow", "numpy")
TARGETS = {"pairs read": 5000, "pairs tokenized": 1500, "pictures": 3000}
"""Units a second on two cores."""

Round = Callable[[], Iterator[tuple[str, float]]]


class Pair(NamedTuple):
    post: str
    summaries: list[str]


# --- what is read -----------------------------------------------------------------------------------------------


def write_pairs(path: Path, count: int) -> None:
    """JSON Lines of running English: a post and two summaries each."""
    from pydoc_data.topics import topics

    words, rng = " ".join(topics.values()).split(), random.Random(0)

    def passage(mean: int) -> str:
        start = rng.randrange(len(words) - 4 * mean)
        return " ".join(words[start : start + rng.randint(mean // 2, mean * 3 // 2)])

    with open(path, "w") as file:
        for _ in range(count):
            file.write(json.dumps({"post": passage(350), "summaries": [passage(30), passage(30)]}) + "\n")


def pair_of(row: dict[str, Any]) -> Pair:
    return Pair(row["post"], row["summaries"])


def picture_paths() -> list[Path]:
    spec = importlib.util.find_spec("easy_vqa")
    assert spec is not None, "pip install easy-vqa"
    folder = Path(next(iter(spec.submodule_search_locations or ()))) / "data" / "train" / "images"
    return sorted(folder.glob("*.png"))


# --- what is made of it: at the top level, since worker processes import it -------------------------------------


def read(source: JsonLines, batch: Batch) -> list[Pair]:
    """Pairs before tokenizing."""
    return [pair_of(source[int(i)]) for i in batch.indices]


def encode(processor: Processor, pairs: list[Pair]) -> Columns:
    """The columns of a block of pairs."""
    prompts = processor.encode([[Message("user", pair.post)] for pair in pairs], Gallery(processor.config))
    first, second = (processor.encode_replies([pair.summaries[side] for pair in pairs]) for side in range(2))
    return {"prompt": ragged([p.tokens for p in prompts]), "first": ragged(first), "second": ragged(second)}


def padded(rows: list[np.ndarray], length: int) -> np.ndarray:
    out = np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def tokenize(processor: Processor, source: JsonLines, batch: Batch) -> list[np.ndarray]:
    """A batch tokenized as it is needed, without a cache."""
    columns = encode(processor, read(source, batch)).values()
    rows = [np.split(c.values, c.offsets[1:-1]) for c in columns]  # type: ignore[union-attr]
    return [padded(r, max(map(len, r))) for r in rows]


def look_up(table: Table, shapes: np.ndarray, batch: Batch) -> list[np.ndarray]:
    """A batch of what was tokenized before, in the shape of its bucket."""
    lengths = (shapes[batch.bucket][0], shapes[batch.bucket][1], shapes[batch.bucket][1])
    columns = (table.column(name) for name in ("prompt", "first", "second"))
    return [padded([c[int(i)] for i in batch.indices], n) for c, n in zip(columns, lengths, strict=True)]


def cut(vision: VisionConfig, paths: list[Path], batch: Batch) -> np.ndarray:
    """A batch of pictures opened as they are needed."""
    return np.stack([views_of(open_image(Image(paths[int(i)])), vision).patches for i in batch.indices])


def take(gallery: Gallery, batch: Batch) -> Any:
    """A batch of pictures that a gallery has."""
    return gallery.take([[int(i)] for i in batch.indices])


# --- what is timed ----------------------------------------------------------------------------------------------


def one_bucket(count: int, seed: int) -> BucketedOrder:
    return BucketedOrder(np.zeros(count, int), BATCH, seed=seed)


def flowing(order: BucketedOrder, collate: Callable[[Batch], Any], workers: int, batches: int) -> float:
    """Examples a second of so many batches, after those that were made ahead at the start."""
    with ordered_batches(order, collate, workers=workers) as stream:
        for _ in range(8):
            next(stream)
        start = time.perf_counter()
        for _ in itertools.islice(stream, batches):
            pass
        return batches * BATCH / (time.perf_counter() - start)


def rate(count: int, work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def text_round(processor: Processor, path: Path, count: int, seed: int) -> Iterator[tuple[str, float]]:
    """One round of the measurements on text."""
    batches, order = count // BATCH, one_bucket(count, seed)
    yield (
        "pairs read, cold",
        rate(count, lambda: [read(source, order[k]) for source in [JsonLines(path)] for k in range(batches)]),
    )
    source = JsonLines(path)
    for workers in (0, WORKERS):
        yield f"pairs read, warm, {workers} workers", flowing(order, functools.partial(read, source), workers, batches)
    for workers in (0, WORKERS):
        collate = functools.partial(tokenize, processor, source)
        yield f"pairs tokenized, cold, {workers} workers", flowing(order, collate, workers, batches // 2)
    with tempfile.TemporaryDirectory() as folder:
        once = functools.partial(
            encode_once, encode_block=functools.partial(encode, processor), key="k", folder=Path(folder)
        )
        for state in ("cold", "warm"):
            examples = (pair_of(source[i]) for i in range(count))
            yield f"pairs tokenized, {state}, encode_once", rate(count, functools.partial(once, examples))
        table = once(pair_of(source[i]) for i in range(count))
        sizes = [table.column(name).lengths for name in ("prompt", "first", "second")]
        buckets = choose_buckets(np.stack([sizes[0], np.maximum(*sizes[1:])], axis=1), weights=(1, 2), least=BATCH)
        order = BucketedOrder(buckets.assignment, BATCH, seed=seed)
        for workers in (0, WORKERS):
            collate = functools.partial(look_up, table, buckets.shapes)
            yield f"pairs tokenized, warm, {workers} workers", flowing(order, collate, workers, 4 * batches)


def picture_round(seed: int) -> Iterator[tuple[str, float]]:
    """One round of the measurements on pictures."""
    config, paths = load_model("tiny-vlm").config, picture_paths()
    assert config.vision is not None
    order, gallery = one_bucket(len(paths), seed), Gallery(config)
    yield "pictures, cold, gallery", rate(len(paths), lambda: [gallery.add(Image(path)) for path in paths])
    for workers in (0, WORKERS):
        collate = functools.partial(cut, config.vision, paths)
        yield f"pictures, cold, {workers} workers", flowing(order, collate, workers, len(paths) // BATCH)
        yield (
            f"pictures, warm, {workers} workers",
            flowing(order, functools.partial(take, gallery), workers, 4 * len(paths) // BATCH),
        )


# --- the table --------------------------------------------------------------------------------------------------


def hardware() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.processor()}"


def table_of(found: dict[str, list[float]]) -> str:
    """The measurements in Markdown."""
    lines = ["| what | a second, median | slowest .. fastest | target |", "|---|---|---|---|"]
    for name, rates in found.items():
        target = TARGETS[name.partition(",")[0]]
        middle, low, high = statistics.median(rates), min(rates), max(rates)
        lines.append(f"| {name} | {middle:,.0f} | {low:,.0f} .. {high:,.0f} | {target:,} |")
    return "\n".join(lines)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", help="a folder in the Hugging Face layout (default: tiny-vlm)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=4096)
    options = parser.parse_args()
    processor = load_model(options.checkpoint or "tiny-vlm").processor
    processor = Processor(processor.tokenizer, replace(processor.config, context=CONTEXT))
    before, found = os.getloadavg()[0], dict[str, list[float]]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pairs.jsonl")
        write_pairs(path, options.pairs)
        tokens = encode(processor, [pair_of(JsonLines(path)[i]) for i in range(64)])["prompt"].offsets[-1] / 64  # type: ignore[union-attr]
        for number in range(options.rounds):
            for name, speed in itertools.chain(
                text_round(processor, path, options.pairs, number), picture_round(number)
            ):
                found.setdefault(name, []).append(speed)
                print(f"round {number + 1}, {name}: {speed:,.0f} a second", file=sys.stderr)
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)
    print(
        f"{table_of(found)}\n\n{options.pairs:,} pairs, {tokens:.0f} tokens a prompt with the tokenizer of "
        f"{processor.config.name}; {hardware()}; load {before:.1f} before and {os.getloadavg()[0]:.1f} after (the "
        f"benchmark itself is 1 to 3); {options.rounds} rounds; Python {platform.python_version()}, {versions}"
    )


if __name__ == "__main__":
    main()
