"""A refit against its definition: sequential least squares, written without blocks, stages or hooks that stop."""

import copy
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from nli_fixture import write_inputs
from safetensors.torch import load_file
from test_compress import prepared, random_candidate, snapshot
from tiny import batches, sequences, sized

from autolr.checkpoint.runtime import rewrites
from autolr.checkpoint.runtime.layers import LowRankLinear
from autolr.errors import UsageError
from autolr.forms.swap import compressed
from autolr.methods.kfac import OUT_SHRINKAGE
from autolr.methods.shrinkage import well_conditioned
from autolr.methods.weighted_svd import psd_power, shrink
from autolr.model.units import unit_weight
from autolr.optimization.study.folder import StudyFolder
from autolr.progress import Silent
from autolr.recovery import block_refit
from autolr.recovery import observed as observed_module
from autolr.recovery import refit as refit_module
from autolr.recovery.conformance import check
from autolr.recovery.refit import REFIT, correct, refit
from autolr.recovery.regression import MOST_PRIOR, PRIOR, TOKENS_PER_INPUT, Correction
from autolr.spec.study import make_spec
from autolr.types import Candidate
from autolr.workflows import finalists
from autolr.workflows import select as selection
from autolr.workflows.search import open_study, run_search

DATA = batches(sequences(24), 8)
READS_ONE = {"bert": 0, "roberta": 0, "gpt2": -1, "llama": -1}


def divergence(model, dense_logits):
    found = []
    for batch, dense in zip(DATA, dense_logits, strict=True):
        p, q = dense.double().log_softmax(-1), model(**batch).logits.double().log_softmax(-1)
        found.append((p.exp() * (p - q)).sum(-1))
    return float(torch.cat(found).mean())


def seen(model, names, batch):
    """Each layer's input and output in one whole pass."""
    found = {}

    def note(name):
        return lambda _module, args, output: found.update({name: (args[0], output)})

    hooks = [model.get_submodule(name).register_forward_hook(note(name)) for name in names]
    model(**batch)
    for hook in hooks:
        hook.remove()
    return found


def factors_of(matrix, rank):
    """Any two factors of a matrix of a rank."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return torch.tensor(u[:, :rank] * s[:rank]), torch.tensor(v[:rank])


def by_definition(model, candidate, source, one_position):
    """Every layer alone, in the order of the pass, from whole passes and NumPy's least squares."""
    names = [name for name, _ in candidate.choices]
    order = list(seen(model, names, DATA[0]))
    targets = [seen(model, names, batch) for batch in DATA]
    found = {}
    dense = copy.deepcopy(model)
    with compressed(model, candidate, source):
        for name in order:
            layer = model.get_submodule(name)
            last = source.units[name].block == source.units[name].n_blocks - 1
            reads_one = last and not any(part in name for part in ("key", "value", "k_proj", "v_proj", "c_attn"))
            zs, ys = [], []
            for batch, target in zip(DATA, targets, strict=True):
                x = seen(model, [name], batch)[name][0]
                live = batch["attention_mask"].bool()
                if reads_one:
                    place = (
                        live.int().argmax(1) if one_position == 0 else live.shape[1] - 1 - live.flip(1).int().argmax(1)
                    )
                    live = torch.zeros_like(live)
                    live[torch.arange(len(live)), place] = True
                fitted = layer.outer_weight @ layer.inner_weight
                zs.append(x[live])
                ys.append((target[name][1] - (layer(x) - x @ fitted.mT - layer.bias))[live])
            x, y = torch.cat(zs).double().numpy(), torch.cat(ys).double().numpy()
            stats = source.stats(name)
            root = psd_power(well_conditioned(stats.in_covariance, stats.n_tokens)).numpy()
            kept = (layer.dense_weight() - layer.outer_weight.double() @ layer.inner_weight.double()).numpy()
            weight = unit_weight(dense, source.units[name]).double().numpy() - kept
            share = min(MOST_PRIOR, PRIOR * max(1.0, TOKENS_PER_INPUT * x.shape[1] / len(x)))
            own = np.sqrt((1 - share) / len(x))
            tall = np.vstack([own * (x - x.mean(0)), np.sqrt(share) * root])
            wide = np.vstack([own * (y - y.mean(0)), np.sqrt(share) * root @ weight.T])
            metric = psd_power(shrink(stats.out_gram, OUT_SHRINKAGE)).numpy()
            answers = wide_fit = np.linalg.lstsq(tall, wide, rcond=None)[0]
            u = np.linalg.svd(tall @ answers @ metric, full_matrices=False)[2][: layer.rank].T
            answers = wide_fit @ metric @ u @ u.T @ np.linalg.inv(metric)
            bias = y.mean(0) - x.mean(0) @ answers
            found[name] = (answers.T, bias)
            correct(layer, Correction(*factors_of(answers.T, layer.rank), torch.tensor(bias)))
    return found


@contextmanager
def refitted(model, candidate, source, corrections):
    with compressed(model, candidate, source):
        for name, correction in corrections.items():
            correct(model.get_submodule(name), correction)
        yield model


@pytest.mark.parametrize("family", READS_ONE)
def test_a_refit_obeys_the_laws_of_recoveries(family) -> None:
    model, source = prepared(family)
    check(REFIT, model, random_candidate(source), source, DATA)


@torch.no_grad()
@pytest.mark.parametrize("family", READS_ONE)
def test_a_refit_is_sequential_least_squares(family) -> None:
    model, source = prepared(family)
    candidate = random_candidate(source)
    before, dense_logits = snapshot(model), [model(**batch).logits for batch in DATA]
    found = refit(model, candidate, source, DATA)
    assert snapshot(model) == before
    wanted = by_definition(model, candidate, source, READS_ONE[family])
    assert found.keys() == wanted.keys() == dict(candidate.choices).keys()
    for name, correction in found.items():
        matrix, bias = map(torch.tensor, wanted[name])
        torch.testing.assert_close(correction.left.double() @ correction.right.double(), matrix, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(correction.bias.double(), bias, rtol=1e-2, atol=1e-3)
    with compressed(model, candidate, source):
        plain = divergence(model, dense_logits)
    with refitted(model, candidate, source, found):
        assert divergence(model, dense_logits) < plain
    assert snapshot(model) == before


@torch.no_grad()
def test_what_is_left_dense_stays_and_a_rank_of_zero_has_its_mean() -> None:
    model, source = prepared("bert")
    names = list(source.units)
    candidate = Candidate.of({names[3]: sized("svd", 0), names[8]: sized("svd", 4)})
    found = refit(model, candidate, source, DATA)
    assert set(found) == {names[3], names[8]}
    outputs = torch.cat([seen(model, names, batch)[names[3]][1][batch["attention_mask"].bool()] for batch in DATA])
    torch.testing.assert_close(found[names[3]].bias, outputs.mean(0), rtol=1e-4, atol=1e-5)
    assert refit(model, Candidate(), source, DATA) == {}


@torch.no_grad()
def test_a_rewritten_model_has_the_same_refit() -> None:
    model, source = prepared("bert")
    candidate = random_candidate(source, seed=2)
    plain = refit(model, candidate, source, DATA)
    for name in rewrites.REWRITES:
        assert rewrites.apply(model, name)
    fast = refit(model, candidate, source, DATA)
    for name, correction in plain.items():
        matrices = [found.left @ found.right for found in (fast[name], correction)]
        torch.testing.assert_close(*matrices, rtol=1e-3, atol=1e-3, msg=name)
        torch.testing.assert_close(fast[name].bias, correction.bias, rtol=1e-3, atol=1e-3, msg=name)


@torch.no_grad()
def test_what_is_too_much_to_keep_is_computed_anew(monkeypatch) -> None:
    model, source = prepared("bert")
    candidate = random_candidate(source, seed=2)
    plain = refit(model, candidate, source, DATA)
    monkeypatch.setattr(observed_module, "MOST_KEPT", 0)
    monkeypatch.setattr(block_refit, "MOST_KEPT", 0)
    again = refit(model, candidate, source, DATA)
    assert plain.keys() == again.keys()
    for name, correction in plain.items():
        torch.testing.assert_close(vars(again[name]), vars(correction))


def test_blocks_that_share_their_weights_are_left_alone() -> None:
    model, source = prepared("albert")
    candidate = Candidate.of({name: sized("svd", 2) for name in source.units})
    assert refit(model, candidate, source, DATA) == {}


def test_no_data_is_refused() -> None:
    model, source = prepared("bert")
    with pytest.raises(UsageError, match="at least one batch"):
        refit(model, random_candidate(source), source, [])


def test_layers_that_see_too_few_tokens_stay_where_nothing_else_is_known_of_them() -> None:
    model, source = prepared("bert")
    source.measured.clear()
    names = list(source.units)
    candidate = Candidate.of({names[0]: sized("svd", 12), names[3]: sized("svd", 1)})
    assert refit(model, candidate, source, DATA[:1]) == {}
    assert set(refit(model, candidate, source, DATA * 8)) == {names[0], names[3]}


def test_something_between_two_blocks_is_noticed() -> None:
    model, source = prepared("bert")
    candidate = random_candidate(source)
    assert refit(model, candidate, source, DATA)
    second = model.bert.encoder.layer[1]
    second.register_forward_pre_hook(lambda _module, args: (args[0] + 1.0, *args[1:]))
    assert refit(model, candidate, source, DATA) == {}


def test_dead_inputs_are_answered_as_the_dense_layer_answers_them() -> None:
    model, source = prepared("bert")
    name = next(iter(source.units))
    source.measured.clear()
    candidate = Candidate.of({name: sized("svd", 6)})
    same = [{"input_ids": torch.full((64, 5), 7), "attention_mask": torch.ones(64, 5, dtype=torch.long)}]
    found = refit(model, candidate, source, same)  # five distinct inputs
    wanted = seen(model, [name], same[0])[name][1]
    with refitted(model, candidate, source, found), torch.no_grad():
        got = seen(model, [name], same[0])[name][1]
    with compressed(model, candidate, source), torch.no_grad():
        before = seen(model, [name], same[0])[name][1]
    assert (got - wanted).norm() < 0.2 * (before - wanted).norm()


@pytest.fixture
def study(tmp_path: Path) -> tuple[StudyFolder, dict]:
    options = write_inputs(tmp_path / "inputs")
    data = {name.removeprefix("--"): value for name, value in options.items() if name != "--model"}
    plain = {
        "model": options["--model"],
        "data": data | {"search_examples": 40, "selection_examples": 40},
        "budgets": ["0.5x-flops"],
        "trials": 6,
        "search": {"methods": ["kfac"], "multiple": 2},
    }
    return StudyFolder(tmp_path / "study"), plain


def test_the_winner_is_refitted_once_and_its_checkpoint_holds_it(study, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, plain = study
    monkeypatch.setattr(selection, "scores_better", lambda *_: True)
    phases: list[str] = []
    monkeypatch.setattr(Silent, "start", lambda _, phase: phases.append(phase))
    result = run_search(make_spec(plain, "test"), folder, Silent())
    [refitted] = [
        said[1] for phase in phases if (said := re.match(r"refit \d+ layers of trials? ([\d, ]+) on ", phase))
    ]
    assert set(refitted.split(", ")) == {
        str(member.trial) for member in result.members if member.variant.recovery is not None
    }
    opened, winner = open_study(folder, Silent()), result.winning
    layers = sum(len(opened.bank.unit(name).modules) for name, _ in winner.candidate.choices)
    assert result.report.recovery.layers == result.report.to_json()["refitted"] == layers
    assert winner.variant.recovery == "refit"
    assert winner.selection.scores != winner.selection.before_recovery
    card = (folder.path / result.checkpoint / "README.md").read_text()
    assert f"{layers} layers were refitted by least squares" in card
    candidate = winner.candidate
    monkeypatch.setattr(refit_module, "refit_together", lambda *_: pytest.fail("it was kept"))
    changes = finalists.changes_of(opened.inputs, opened.bank, candidate, Silent())
    from autolr.checkpoint.load import load_checkpoint

    loaded = load_checkpoint(folder.path / result.checkpoint)
    for name in changes.layers:
        layer = loaded.get_submodule(name)
        low_rank = isinstance(layer, LowRankLinear)
        assert torch.equal(layer.outer_weight if low_rank else layer.linear.weight, changes.tensors[f"{name}/left"])
        assert torch.equal(layer.bias, changes.tensors[f"{name}/bias"])
        assert (f"{name}/right" in changes.tensors) == low_rank
        if low_rank:
            assert torch.equal(layer.inner_weight, changes.tensors[f"{name}/right"])


def test_damaged_corrections_are_computed_again(study, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, plain = study
    result = run_search(make_spec(plain, "test"), folder, Silent())
    candidate = result.winning.candidate
    file = folder.bank / "refit" / f"{candidate.digest}.safetensors"
    before, calls = {name: tensor.clone() for name, tensor in load_file(file).items()}, []
    file.write_bytes(file.read_bytes()[:-7] + b"damaged")
    real = refit_module.refit_together
    monkeypatch.setattr(refit_module, "refit_together", lambda *args: calls.append(1) or real(*args))
    opened = open_study(folder, Silent())
    finalists.changes_of(opened.inputs, opened.bank, candidate, Silent())
    assert calls == [1]
    after = load_file(file)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_study_may_do_without(study) -> None:
    folder, plain = study
    plain["search"]["refit"] = False
    result = run_search(make_spec(plain, "test"), folder, Silent())
    assert result.report.recovery is None
    assert all(member.selection.before_recovery is None for member in result.members)
    assert not (folder.bank / "refit").exists()
