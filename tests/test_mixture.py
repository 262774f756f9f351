"""Mixtures of adapters: one expert alone, none at all, token by token, what is trained and what is frozen, and runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import CONFIG, FIRST_WORD, Batch, Heard, processor, random_batch, random_roles, random_slot, slot_of, state
from safetensors.numpy import load_file, save_file

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters import averages, files, gates, lora, roles
from pe_rlhf_mm.adapters.lora import LowRank
from pe_rlhf_mm.adapters.mixture import Mixture, balanced, new_mixture
from pe_rlhf_mm.adapters.roles import Roles, Weights, adapted_by, fingerprint
from pe_rlhf_mm.cli.plan import plan
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import EncodedPrompt
from pe_rlhf_mm.errors import OutOfRange, UserError
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.model import load_model
from pe_rlhf_mm.rollout.export import export_role
from pe_rlhf_mm.rollout.load import load_policy
from pe_rlhf_mm.rollout.sampler import sample
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.training import forward, passes, reinforce, sft
from pe_rlhf_mm.training.config import RLConfig, SFTConfig, TuneConfig
from pe_rlhf_mm.training.given import mixture_of
from pe_rlhf_mm.training.passes import Completed
from pe_rlhf_mm.training.sft import Demonstration

BACKBONE = state()
SLOTS = [random_slot(1, rank=3), random_slot(2, rank=2, targets=("q", "down")), random_slot(3, rank=4)]
SCALES = [0.5, 2.0, 1.0]
KINDS = pytest.mark.parametrize("kind", gates.KINDS)


def mixed(kind: str = "layer", *, seed: int | None = None, toward: int | None = None, balance: float = 0.5) -> Mixture:
    """Of SLOTS: with gates that have been trained (`seed`), or that give all to one expert, or fresh ones."""
    found = new_mixture(CONFIG, SLOTS, SCALES, kind=kind, balance=balance)
    if toward is not None:
        sure = {place: gate._replace(bias=gate.bias.at[:, toward].set(1e9)) for place, gate in found.gates.items()}
        return found._replace(gates=sure)
    if seed is None:
        return found
    leaves, shape = jax.tree.flatten(found.gates)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [0.5 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return found._replace(gates=jax.tree.unflatten(shape, drawn))


@pytest.fixture(scope="module")
def batch() -> Batch:
    return random_batch(np.random.default_rng(0))


@jax.jit
def read(weights: Weights, batch: Batch) -> forward.Read:
    return forward.read(CONFIG, weights, *batch)


# --- what it computes -------------------------------------------------------------------------------------------


def test_what_is_added_is_the_sum_over_experts_of_what_each_adds_times_its_share() -> None:
    rng = np.random.default_rng(0)
    x, a, b = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 4, 2)), rng.normal(size=(2, 2, 5))
    shares, scale = rng.dirichlet((1, 1), size=(2, 3)), np.array([0.5, 3.0])
    expected = np.zeros((2, 3, 5))
    for row, column in np.ndindex(2, 3):
        for n in range(2):
            expected[row, column] += shares[row, column, n] * scale[n] * (x[row, column] @ a[n] @ b[n])
    low = LowRank(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(lora.mixed(x, low, jnp.asarray(scale), jnp.asarray(shares)), expected, rtol=1e-4)


def test_a_gate_is_a_softmax_whose_temperature_is_learned() -> None:
    """Logits h W + b are (2, 0) for h = (1, 1): at temperature 1 the shares are e²/(e² + 1) and the rest."""
    gate = gates.Gate(jnp.array([[1.0, 0.0], [0.5, 0.0]]), jnp.array([0.5, 0.0]), jnp.float32(0))
    e = np.exp(2.0)
    np.testing.assert_allclose(gate(jnp.ones(2)), [e / (e + 1), 1 / (e + 1)], rtol=1e-5)
    hot = gate._replace(log_temperature=jnp.log(jnp.float32(4)))
    e = np.exp(0.5)
    np.testing.assert_allclose(hot(jnp.ones(2)), [e / (e + 1), 1 / (e + 1)], rtol=1e-5)


@KINDS
@pytest.mark.parametrize("one", range(3))
def test_a_gate_that_gives_all_to_one_expert_is_that_adapter_alone(kind: str, one: int, batch: Batch) -> None:
    found = read(Weights(BACKBONE, mixed(kind, toward=one).bank), batch)
    alone = read(adapted_by(BACKBONE, SLOTS[one], SCALES[one]), batch)
    np.testing.assert_allclose(found.states, alone.states, rtol=1e-4, atol=1e-5)
    assert found.usage.tolist() == [float(n == one) for n in range(3)]
    other = read(adapted_by(BACKBONE, SLOTS[one - 1], SCALES[one - 1]), batch)
    assert np.abs(found.states - other.states).max() > 0.1


@KINDS
def test_experts_that_change_nothing_leave_the_backbone_as_it_is(kind: str, batch: Batch) -> None:
    fresh = [jax.tree.map(lambda x: x, {t: low._replace(b=0 * low.b) for t, low in slot.items()}) for slot in SLOTS]
    made = new_mixture(CONFIG, fresh, SCALES, kind=kind)._replace(gates=mixed(kind, seed=0).gates)
    assert (read(Weights(BACKBONE, made.bank), batch).states == read(Weights(BACKBONE, None), batch).states).all()


@KINDS
def test_a_fresh_mixture_is_the_mean_of_its_experts(kind: str, batch: Batch) -> None:
    alike = [random_slot(n, rank=n) for n in (1, 2, 3)]
    slot, scale = averages.averaged(alike, SCALES)
    mean = read(adapted_by(BACKBONE, slot, scale), batch).states
    fresh = new_mixture(CONFIG, alike, SCALES, kind=kind)
    np.testing.assert_allclose(read(Weights(BACKBONE, fresh.bank), batch).states, mean, rtol=1e-3, atol=1e-4)


def test_an_mlp_goes_by_a_gate_of_its_own_where_it_has_one(batch: Batch) -> None:
    """All of it to expert 1, and all of attention to expert 0: as one adapter with the matrices of each."""
    both = mixed("layer", toward=0)
    both = both._replace(gates={"attention": both.gates["attention"], "mlp": mixed("layer", toward=1).gates["mlp"]})
    scaled = {"down": SLOTS[1]["down"]._replace(b=SLOTS[1]["down"].b * SCALES[1] / SCALES[0])}
    alone = read(adapted_by(BACKBONE, {**SLOTS[0], **scaled}, SCALES[0]), batch).states
    np.testing.assert_allclose(read(Weights(BACKBONE, both.bank), batch).states, alone, rtol=1e-4, atol=1e-5)


@KINDS
def test_what_is_written_token_by_token_has_the_log_probabilities_of_what_is_read_at_once(
    kind: str, batch: Batch
) -> None:
    weights, plain = Weights(BACKBONE, mixed(kind, seed=1).bank), Sampling(max_tokens=5)
    drawn = sample(CONFIG, *weights, batch.prompts, jax.random.split(jax.random.key(0), 3), group=2, sampling=plain)
    again = forward.score_policy(CONFIG, weights, batch.prompts, drawn.completions, plain)
    np.testing.assert_allclose(drawn.logprobs, again.logprobs, rtol=1e-3, atol=1e-4)
    without = forward.score_policy(CONFIG, Weights(BACKBONE, None), batch.prompts, drawn.completions, plain)
    assert np.abs(drawn.logprobs - without.logprobs).max() > 0.1


@KINDS
def test_no_token_sees_what_comes_after_it(kind: str, batch: Batch) -> None:
    weights, tokens = Weights(BACKBONE, mixed(kind, seed=1).bank), np.array(batch.completions.tokens)
    assert batch.completions.mask[1, 1, 3]
    tokens[1, 1, 3] = (tokens[1, 1, 3] + 1) % 20 + FIRST_WORD
    other = batch._replace(completions=batch.completions._replace(tokens=tokens))
    one, two = (
        np.asarray(vlm.before_each(read(weights, rows).states, *tokens.shape[1:]))[1, 1] for rows in (batch, other)
    )
    assert (one[:4] == two[:4]).all()
    assert (one[4] != two[4]).any()


# --- how experts are used ---------------------------------------------------------------------------------------


def test_usage_is_the_mean_over_gates_and_real_tokens() -> None:
    said = {"attention": jnp.zeros((2, 1, 3, 2)).at[0, 0, :, 0].set(1).at[1, 0, :, 1].set(1)}  # layers disagree
    said["mlp"] = jnp.zeros((2, 1, 3, 2)).at[:, 0, 0, 0].set(1).at[:, 0, 1, 1].set(1).at[:, 0, 2, 1].set(1)
    real = jnp.array([[True, True, False]])
    np.testing.assert_allclose(gates.usage(said, real), [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(gates.usage({"mlp": said["mlp"]}, jnp.ones((1, 3), bool)), [1 / 3, 2 / 3], rtol=1e-6)


def test_balance_is_best_where_all_are_used_alike() -> None:
    np.testing.assert_allclose(gates.imbalance(jnp.array([0.25] * 4)), 4 * np.log(4), rtol=1e-6)
    np.testing.assert_allclose(gates.imbalance(jnp.array([0.5, 0.25, 0.25])), 5 * np.log(2), rtol=1e-6)
    assert np.isfinite(gates.imbalance(jnp.array([1.0, 0.0])))


def test_the_balance_loss_is_added_and_each_expert_is_told() -> None:
    loss, metrics = balanced(mixed(), jnp.array([0.5, 0.25, 0.25]), jnp.float32(1), {"entropy": jnp.float32(2)})
    np.testing.assert_allclose(loss, 1 + 0.5 * 5 * np.log(2), rtol=1e-6)
    wanted = {"entropy": 2, "expert_1": 0.5, "expert_2": 0.25, "expert_3": 0.25, "least_used_expert": 0.25}
    assert {name: float(value) for name, value in metrics.items()} == wanted
    assert balanced(None, None, jnp.float32(1), {"entropy": jnp.float32(2)}) == (1, {"entropy": 2})


def test_padding_uses_no_expert(batch: Batch) -> None:
    weights, garbage = Weights(BACKBONE, mixed("layer", seed=2).bank), np.array(batch.prompts.tokens)
    garbage[~np.asarray(batch.prompts.mask)] = FIRST_WORD + 4
    other = batch._replace(prompts=batch.prompts._replace(tokens=garbage))
    one, two = read(weights, batch).usage, read(weights, other).usage
    np.testing.assert_allclose(one, two, rtol=1e-6)
    np.testing.assert_allclose(one.sum(), 1, rtol=1e-5)
    assert np.ptp(one) > 0.05


# --- training ---------------------------------------------------------------------------------------------------


def roles_of(mixture: Mixture) -> Roles:
    return roles.only_backbone(BACKBONE).mixed("sft", mixture)


def studied(mixture: Mixture) -> tuple[Roles, Heard]:
    """After SFT on one reply, whatever the prompt."""
    shown = [Demonstration(EncodedPrompt([FIRST_WORD + n, FIRST_WORD + 3], ()), [FIRST_WORD + 1, 2]) for n in range(16)]
    heard, settings = Heard(), SFTConfig(steps=40, batch_size=16, learning_rate=0.05)
    return sft.sft(roles_of(mixture), processor(), Gallery(CONFIG), shown, settings, observer=heard), heard


def test_gates_learn_and_experts_stay_as_they_are() -> None:
    before = mixed("layer", balance=0.0)
    after, heard = studied(before)
    learned = after.mixtures["sft"]
    assert fingerprint((learned.experts, learned.scales)) == fingerprint((before.experts, before.scales))
    assert fingerprint(after.backbone) == fingerprint(BACKBONE)
    assert {x.ndim for x in jax.tree.leaves(after.pick("sft"))} == {1, 2, 3}, "gates, and nothing of an expert"
    for place, gate in learned.gates.items():
        for name, x in gate._asdict().items():
            assert (x != getattr(before.gates[place], name)).any(), (place, name)
    assert heard.steps[-1]["loss"] < heard.steps[0]["loss"] - 0.5


def test_the_balance_loss_keeps_experts_in_use() -> None:
    without, balanced = (studied(mixed("block", balance=weight))[1].steps[-1] for weight in (0.0, 20.0))
    assert without["least_used_expert"] < 0.25
    assert balanced["least_used_expert"] > 0.3
    assert balanced["expert_1"] + balanced["expert_2"] + balanced["expert_3"] == pytest.approx(1, abs=1e-5)


def test_rl_trains_the_gates_of_policy_and_value_model_and_nothing_of_an_expert() -> None:
    before = random_roles("reward").mixed("sft", mixed(seed=3))
    asked = [EncodedPrompt([FIRST_WORD + n, FIRST_WORD + 3], ()) for n in range(8)]
    settings = RLConfig(steps=2, prompts=8, group=2, learning_rate=1e-2, max_tokens=3, value_learning_rate=1e-2)
    heard = Heard()
    after = reinforce.reinforce(before, processor(), Gallery(CONFIG), asked, settings, observer=heard)
    for role in ("policy", "value"):  # a value model whose head is still zero has no gradient: hence two steps
        assert fingerprint(after.mixtures[role].experts) == fingerprint(before.mixtures["sft"].experts)
        for place, gate in after.mixtures[role].gates.items():
            assert (gate.weight != before.mixtures["sft"].gates[place].weight).any(), (role, place)
    assert fingerprint(after.mixtures["anchor"]) == fingerprint(before.mixtures["sft"])
    assert heard.steps[0]["expert_1"] + heard.steps[0]["expert_2"] < 1


def test_a_mixture_has_a_pass_of_its_own_beside_roles_that_share_one(batch: Batch) -> None:
    made = random_roles("value", "reward")
    made = made.mixed("policy", mixed(seed=3)).start("anchor", "policy")
    names = ("policy", "anchor", "value", "reward")
    assert passes.together(made, names) == [("value", "reward"), ("policy",), ("anchor",)]
    one, own = (
        passes.said(CONFIG, made, names, Completed(*batch), RLConfig(passes=how)) for how in ("together", "apart")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one, own)
    assert (one["policy"].logprobs == one["anchor"].logprobs).all()
    assert one["policy"].usage.shape == (3,)


# --- files ------------------------------------------------------------------------------------------------------


@KINDS
def test_a_mixture_comes_back_from_its_folder(kind: str, tmp_path: Path) -> None:
    made = roles_of(mixed(kind, seed=4, balance=0.25))
    files.save_role(tmp_path, made, "sft", CONFIG, "tiny")
    again = files.load_role(tmp_path, roles.only_backbone(BACKBONE), "policy", CONFIG)
    assert jax.tree.structure(again.mixtures["policy"]) == jax.tree.structure(made.mixtures["sft"])
    assert fingerprint(again.mixtures["policy"]) == fingerprint(made.mixtures["sft"])
    with pytest.raises(UserError, match="with weights of the fingerprint"):
        files.load_role(tmp_path, roles.only_backbone(state(1)), "policy", CONFIG)


@pytest.mark.parametrize("name", ["gates.mlp.weight", "experts.q.b", "scales"])
def test_a_file_that_lacks_a_part_or_has_one_of_another_size_is_refused(name: str, tmp_path: Path) -> None:
    files.save_role(tmp_path, roles_of(mixed()), "sft", CONFIG, "tiny")
    path = tmp_path / "mixture.safetensors"
    whole = load_file(path)
    for tensors in ({n: x for n, x in whole.items() if n != name}, {**whole, name: whole[name][..., :-1].copy()}):
        save_file(tensors, path)
        with pytest.raises(UserError, match="is no mixture of adapters"):
            files.load_role(tmp_path, roles.only_backbone(BACKBONE), "sft", CONFIG)


# --- what is refused --------------------------------------------------------------------------------------------


def test_experts_that_cannot_be_mixed_are_refused() -> None:
    with pytest.raises(UserError, match="a mixture of no experts"):
        new_mixture(CONFIG, [], [])
    with pytest.raises(UserError, match=r"expert 2 has adapters beside projector\.project"):
        new_mixture(CONFIG, [SLOTS[0], random_slot(1, targets=("projector",))], [1, 1])
    long = {t: low._replace(magnitude=jnp.ones((CONFIG.decoder.layers, 4))) for t, low in SLOTS[0].items()}
    with pytest.raises(UserError, match="expert 1 is of kind dora"):
        new_mixture(CONFIG, [long], [1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mode": "full"}, "nothing that mode full or SFTConfig.start_from would train"),
        ({"sft": SFTConfig(start_from="runs/a")}, "nothing that mode full or SFTConfig.start_from would train"),
    ],
)
def test_settings_at_odds_with_experts_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(OutOfRange, match=said):
        TuneConfig(lora=pe.LoraConfig(experts=("runs/a",)), **changes)


def test_a_plan_of_a_mixture_is_refused() -> None:
    with pytest.raises(UserError, match="mixtures of adapters are not planned"):
        plan(["--model", "gemma3-270m", "--lora.experts", "runs/a", "--estimate"])


# --- a run ------------------------------------------------------------------------------------------------------

SMALL = pe.TuneConfig(
    lora=pe.LoraConfig(rank=2, reward_rank=2, targets=("q", "down")),
    sft=pe.SFTConfig(steps=2, batch_size=8, learning_rate=1e-2),
    reward=pe.RewardConfig(steps=2, batch_size=8, learning_rate=1e-3, validate_every=2, validation_pairs=8),
    rl=pe.RLConfig(steps=2, prompts=4, learning_rate=1e-2, max_tokens=4, evaluate_every=2, evaluation_samples=4),
)
TOY = "pe_rlhf_mm.testing:ToyTask"


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two adapters of tiny-vlm: one in the folder of a run, and one in PEFT's layout."""
    folder, model = tmp_path_factory.mktemp("experts"), load_model("tiny-vlm")
    made = roles.only_backbone(model.state)
    for n, at in enumerate((folder / "run/adapters/sft", folder / "peft")):
        slot = {target: low._replace(b=low.b * (1 + n)) for target, low in slot_of(model.config).items()}
        has = made._replace(slots={"sft": slot}, scales={"sft": jnp.float32(0.5)})
        files.save_role(at, has, "sft", model.config, "tiny-vlm")
    (folder / "run/config.json").write_text("{}")
    return [f"{folder / 'run'}:sft", str(folder / "peft")]


@pytest.fixture(scope="module")
def run(experts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mixed"
    pe.tune(TOY, out=folder, config=replace(SMALL, lora=replace(SMALL.lora, experts=tuple(experts))), quiet=True)
    return folder


def test_a_run_trains_gates_in_sft_and_in_rl_and_tells_how_experts_are_used(run: Path, experts: list[str]) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for stage in ("sft", "rl"):
        told = [line for line in lines if line["stage"] == stage and "expert_1" in line]
        assert len(told) == 2
        assert all(line["expert_1"] + line["expert_2"] == pytest.approx(1, abs=1e-5) for line in told)
    model = load_model("tiny-vlm")
    begun = mixture_of(replace(SMALL.lora, experts=tuple(experts)), model)
    saved = {
        role: files.load_role(run / "adapters" / role, roles.only_backbone(model.state), role, model.config)
        for role in ("sft", "policy", "value", "reward")
    }
    for role in ("sft", "policy", "value"):
        found = saved[role].mixtures[role]
        assert fingerprint(found.experts) == fingerprint(begun.experts)
        assert fingerprint(found.gates) != fingerprint(begun.gates)
    assert "reward" in saved["reward"].slots, "a reward model has an adapter of its own"
    assert "SFT: least used expert" in (run / "report.html").read_text()


def test_the_policy_of_such_a_run_is_read_and_can_be_gone_on_from(run: Path, tmp_path: Path) -> None:
    policy = load_policy(run)
    assert policy.weights.bank is not None
    assert policy.weights.bank.gates is not None
    pe.tune(TOY, out=tmp_path / "next", config=SMALL, start_from=run, quiet=True)
    first, second = ((folder / "adapters/sft/mixture.safetensors").read_bytes() for folder in (run, tmp_path / "next"))
    assert first == second


def test_such_a_policy_is_exported_by_no_format(run: Path, tmp_path: Path) -> None:
    for format in ("peft", "merged"):
        with pytest.raises(UserError, match="is a mixture of adapters, which asks its experts anew for every token"):
            export_role(run, tmp_path / "out", "policy", format)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="is a mixture of adapters"):
        pe.save_adapter(tmp_path / "out", load_policy(run))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("role", "said"),
    [
        ("reward", "reads a number off a head, and writes no replies"),
        ("policy", "is a mixture of adapters itself, and one adapter is wanted here"),
        ("judge", "has no adapters to go on with: expected a run with the role judge"),
    ],
)
def test_experts_are_adapters_that_write_replies(run: Path, role: str, said: str, tmp_path: Path) -> None:
    config = replace(SMALL, lora=replace(SMALL.lora, experts=(f"{run}:{role}",)))
    with pytest.raises(UserError, match=said):
        pe.tune(TOY, out=tmp_path / "run", config=config, quiet=True)
    assert not (tmp_path / "run").exists()
