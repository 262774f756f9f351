"""Against torch: sampling and reward modelling with LoRA, side by side with transformers, PEFT and TRL on a CPU.

    python benchmarks/vs_torch.py CHECKPOINT [--rounds 5] [--quick] [--only sampling group reward]

CHECKPOINT is a Llama in the Hugging Face layout (`pe-rlhf models fetch smollm2-135m`). Needs the extra `reference`.
Every contestant of a measurement is a process of its own on the same two cores, so that its peak resident set
(`getrusage`: loading, compiling and all) is its own; in that of ours there is no torch, which it does not need. They
hold the same weights, the same adapters (rank 8 on q, k, v and o, none of them zero) and the same token ids, all in
float32. After one round that is not counted, compiling included, they run in turn, one waiting while the other works.
Sampling is greedy and never stops early.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CORES, RANK, SCALE, WARM_UP = 2, 8, 2.0, 1
TARGETS = ("q", "k", "v", "o")
PACKAGES = ("jax", "torch", "transformers", "peft", "trl")

Run = Callable[[], Any]


class Sizes(NamedTuple):
    """How many prompts of how many tokens, and completions of each: drawn, or given in pairs."""

    prompts: int
    length: int
    group: int
    steps: int


class Measurement(NamedTuple):
    """What is timed. `amount` units are done in one run; the contestants' seconds are compared with those of `peft`."""

    title: str
    unit: str
    amount: int
    sizes: Sizes
    contestants: tuple[str, ...]


SAMPLERS = ("ours", "peft", "peft, merged")
MEASUREMENTS = {
    "sampling": Measurement("8 prompts of 128, 64 new tokens", "tokens/s", 8 * 64, Sizes(8, 128, 1, 64), SAMPLERS),
    "group": Measurement("8 samples of 4 prompts of 256", "tokens/s", 32 * 64, Sizes(4, 256, 8, 64), SAMPLERS),
    "reward": Measurement("reward model, 448 + 2 x 64", "pairs/s", 2, Sizes(2, 448, 2, 64), ("ours", "peft")),
}


# --- what both sides are given ----------------------------------------------------------------------------------


def token_ids(sizes: Sizes, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts [B, L] and completions [B, G, T], the same at every call. The first ids are special tokens."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(32, vocabulary, (sizes.prompts, sizes.length))
    return prompts, rng.integers(32, vocabulary, (sizes.prompts, sizes.group, sizes.steps))


def factors(shapes: dict[str, tuple[int, int]], layers: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """LoRA factors a [layers, in, R] and b [layers, R, out] of every target, the same at every call."""
    rng = np.random.default_rng(1)

    def normal(size_in: int, size_out: int) -> np.ndarray:
        return (rng.standard_normal((layers, size_in, size_out)) * 0.3 * size_in**-0.5).astype(np.float32)

    return {t: (normal(shapes[t][0], RANK), normal(RANK, shapes[t][1])) for t in TARGETS}


def head_weight(width: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal(width).astype(np.float32) * width**-0.5


# --- ours -------------------------------------------------------------------------------------------------------


def our_roles(checkpoint: str) -> tuple[Any, Any]:
    """Config and roles: `reward` holds the adapters and the head."""
    import jax.numpy as jnp

    from pe_rlhf_mm.adapters import lora, roles
    from pe_rlhf_mm.adapters.targets import adapted
    from pe_rlhf_mm.models.model import load_model

    model = load_model(checkpoint, dtype=jnp.float32)
    block = model.config.decoder
    sizes = {target: (m.size_in, m.size_out) for target, m in adapted(model.config, TARGETS).items()}
    made = factors(sizes, block.layers)
    slot = {target: lora.LowRank(*map(jnp.asarray, pair)) for target, pair in made.items()}
    held = roles.only_backbone(model.state)._replace(slots={"reward": slot}, scales={"reward": jnp.float32(SCALE)})
    return model.config, held.with_head("reward", jnp.asarray(head_weight(block.width)))


def our_sampling(checkpoint: str, sizes: Sizes, *, merged: bool) -> Run:
    from dataclasses import replace

    import jax

    from pe_rlhf_mm.adapters import roles
    from pe_rlhf_mm.rollout.sampler import sample
    from pe_rlhf_mm.rollout.settings import Sampling
    from pe_rlhf_mm.types import Prompts

    config, held = our_roles(checkpoint)
    weights = held.weights("reward")
    weights = roles.Weights(roles.merged(weights), None) if merged else weights
    del held  # or the kernels without the adapters would stay beside the merged ones
    tokens, _ = token_ids(sizes, config.vocabulary)
    prompts = Prompts(tokens, np.ones(tokens.shape, bool))
    never_stops = replace(config, placeholder_ids=config.stop_ids)  # such ids cannot be drawn
    sampling = Sampling(temperature=0.0, max_tokens=sizes.steps)

    def run() -> list:
        keys = jax.random.split(jax.random.key(0), len(prompts.tokens))
        drawn = sample(never_stops, *weights, prompts, keys, group=sizes.group, sampling=sampling)
        return np.asarray(drawn.completions.tokens).reshape(-1, sizes.steps).tolist()

    return run


def our_reward_step(checkpoint: str, sizes: Sizes) -> Run:
    import jax

    from pe_rlhf_mm.training import reward
    from pe_rlhf_mm.training.optimizers import adam
    from pe_rlhf_mm.training.step import new_state, train_step
    from pe_rlhf_mm.types import Completions, Prompts

    config, held = our_roles(checkpoint)
    tokens, replies = token_ids(sizes, config.vocabulary)
    batch = reward.JudgedBatch(
        Prompts(tokens, np.ones(tokens.shape, bool)),
        Completions(replies, np.ones(replies.shape, bool)),
        labels=np.tile(np.array([1, 0], np.float32), (len(tokens), 1)),
        margin=np.zeros(len(tokens), np.float32),
    )
    optimizer = adam(1e-5, 1000)
    loss = functools.partial(reward.pairwise, config, 0.0, "products")
    state = new_state(held.pick("reward"), held, optimizer, jax.random.key(0))

    def run() -> list:
        nonlocal state
        state, metrics = train_step(state, held, batch, loss=loss, optimizer=optimizer)
        return [float(metrics["loss"])]

    return run


# --- theirs -----------------------------------------------------------------------------------------------------


def with_their_adapters(model: Any, task: str) -> Any:
    """The model behind PEFT, with the adapters that ours has."""
    import peft
    import torch

    names = {t: f"{t}_proj" for t in TARGETS}
    settings = peft.LoraConfig(task_type=task, r=RANK, lora_alpha=RANK * SCALE, target_modules=list(names.values()))
    wrapped = peft.get_peft_model(model, settings)
    layers = wrapped.get_base_model().model.layers
    shapes = {t: getattr(layers[0].self_attn, names[t]).weight.T.shape for t in TARGETS}
    for target, (a, b) in factors(shapes, len(layers)).items():
        for layer, a_layer, b_layer in zip(layers, a, b, strict=True):
            matrix = getattr(layer.self_attn, names[target])
            with torch.no_grad():
                matrix.lora_A["default"].weight.copy_(torch.from_numpy(a_layer.T))
                matrix.lora_B["default"].weight.copy_(torch.from_numpy(b_layer.T))
    return wrapped


def their_sampling(checkpoint: str, sizes: Sizes, *, merged: bool) -> Run:
    import torch
    import transformers

    torch.set_num_threads(CORES)
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="sdpa"
    )
    model = with_their_adapters(plain, "CAUSAL_LM").eval()
    model = model.merge_and_unload() if merged else model
    tokens, _ = token_ids(sizes, plain.config.vocab_size)
    # What `num_return_sequences` does too, where it may: it refuses greedy decoding.
    rows = torch.from_numpy(tokens).repeat_interleave(sizes.group, dim=0)
    settings = {"do_sample": False, "min_new_tokens": sizes.steps, "max_new_tokens": sizes.steps}

    def run() -> list:
        with torch.inference_mode():
            made = model.generate(input_ids=rows, attention_mask=torch.ones_like(rows), **settings)
        return made[:, sizes.length :].tolist()

    return run


def their_reward_step(checkpoint: str, sizes: Sizes) -> Run:
    """RewardTrainer's own collator, loss and backward pass; then, as its loop does, clipping and the optimizer."""
    import datasets
    import torch
    import transformers
    import trl

    torch.set_num_threads(CORES)
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(
        checkpoint, num_labels=1, dtype=torch.float32, attn_implementation="sdpa"
    )
    with torch.no_grad():
        plain.score.weight.copy_(torch.from_numpy(head_weight(plain.config.hidden_size)))
    model = with_their_adapters(plain, "SEQ_CLS")
    tokens, replies = token_ids(sizes, plain.config.vocab_size)
    chosen, rejected = (np.concatenate([tokens, replies[:, i]], axis=1).tolist() for i in range(2))
    pairs = datasets.Dataset.from_dict({"chosen_ids": chosen, "rejected_ids": rejected})
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    settings = trl.RewardConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=sizes.prompts,
        learning_rate=1e-5,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,  # TRL's default is slower and smaller; ours has it off by default
        report_to="none",
    )
    trainer = trl.RewardTrainer(model, settings, train_dataset=pairs, processing_class=tokenizer)
    trainer.current_gradient_accumulation_steps = 1  # which its loop sets
    batch = trainer.data_collator([{"chosen_ids": c, "rejected_ids": r} for c, r in zip(chosen, rejected, strict=True)])
    optimizer = trainer.create_optimizer()
    trainer.model.train()

    def run() -> list:
        loss = trainer.training_step(trainer.model, dict(batch))
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return [float(loss)]

    return run


# --- processes that take turns ----------------------------------------------------------------------------------


def make_run(name: str, contestant: str, checkpoint: str) -> Run:
    framework, _, variant = contestant.partition(", ")
    if framework == "ours":
        sys.modules["torch"] = None  # type: ignore[assignment]  # not installed, for transformers, which would import it
    if name == "reward":
        make = our_reward_step if framework == "ours" else their_reward_step
        return make(checkpoint, MEASUREMENTS[name].sizes)
    make_sampling = our_sampling if framework == "ours" else their_sampling
    return make_sampling(checkpoint, MEASUREMENTS[name].sizes, merged=variant == "merged")


def serve(name: str, contestant: str, checkpoint: str) -> None:
    """The life of one contestant: for every line it reads it runs once, and writes seconds, result and peak memory."""
    # What libraries print must not come between the answers.
    with contextlib.redirect_stdout(sys.stderr):
        run = make_run(name, contestant, checkpoint)
    for _ in sys.stdin:
        start = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            result = run()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "result": result, "peak": peak}), flush=True)


def ask(contestant: str, process: subprocess.Popen) -> dict:
    """Has it run once."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit(f"{contestant} has ended before its time: --log says why")
    said: dict = json.loads(answer)
    return said


def measure(name: str, checkpoint: str, rounds: int, log: Any) -> list[dict]:
    """Lets the contestants of one measurement run in turn; a row for each."""
    asked = MEASUREMENTS[name]
    with contextlib.ExitStack() as stack:
        started = {}
        for contestant in asked.contestants:
            command = [sys.executable, __file__, checkpoint, "--serve", name, contestant]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
            started[contestant] = stack.enter_context(subprocess.Popen(command, **pipes))
        answers: dict[str, list[dict]] = {contestant: [] for contestant in started}
        for _ in range(WARM_UP + rounds):
            for contestant, process in started.items():
                answers[contestant].append(ask(contestant, process))
                print(f"{name}, {contestant}: {answers[contestant][-1]['seconds']:.2f} s", file=sys.stderr)
    seconds = {c: [a["seconds"] for a in made[WARM_UP:]] for c, made in answers.items()}
    return [
        {
            "measurement": name,
            "contestant": contestant,
            "speed": asked.amount / statistics.median(seconds[contestant]),
            "spread": [asked.amount / max(seconds[contestant]), asked.amount / min(seconds[contestant])],
            "ratio": statistics.median(seconds["peft"]) / statistics.median(seconds[contestant]),
            "peak": made[-1]["peak"],
            "agrees": agreement(made[0]["result"], answers["peft"][0]["result"]),
        }
        for contestant, made in answers.items()
    ]


def agreement(results: list, others: list) -> float:
    """The share of replies that are the same token by token; or of losses that are the same to five digits."""
    return float(np.mean([np.allclose(a, b, rtol=1e-5) for a, b in zip(results, others, strict=True)]))


# --- the table --------------------------------------------------------------------------------------------------


def copy_bandwidth() -> float:
    """GB/s read and written by copying 256 MiB from one place in memory to another, the best of 5."""
    source = np.ones(2**25)
    target, seconds = np.empty_like(source), []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(seconds) / 1e9


def hardware() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{CORES} cores of {names[0] if names else platform.processor()}"


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    lines = [
        "| what | who | speed, median | spread | ratio to PEFT | peak, GiB | equal results |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        asked, (low, high) = MEASUREMENTS[r["measurement"]], r["spread"]
        lines.append(
            f"| {asked.title} | {r['contestant']} | {r['speed']:.3g} {asked.unit} | {low:.3g} .. {high:.3g} "
            f"| {r['ratio']:.2f} | {r['peak']:.2f} | {r['agrees']:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a single round")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    parser.add_argument("--log", default=os.devnull, help="where the contestants' own messages go")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Both frameworks start as many threads as there are cores to run on.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if options.serve:
        name, contestant = options.serve
        serve(name, contestant, options.checkpoint)
        return
    with open(options.log, "w") as log:
        rounds = 1 if options.quick else options.rounds
        rows = [row for name in options.only for row in measure(name, options.checkpoint, rounds, log)]
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)
    print(f"{table(rows)}\n\n{hardware()}, copying at {copy_bandwidth():.0f} GB/s; {rounds} rounds; {versions}")


if __name__ == "__main__":
    main()
