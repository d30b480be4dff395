"""NLI by a language model that is asked in words: likelihoods against a loop, padding, priors, a study."""

import json
from pathlib import Path

import pytest
import torch
from decoder_fixture import tokenizer, write_decoder
from nli_fixture import write_model, write_pairs
from tiny import build
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from autolr.cli.main import app
from autolr.data.nli import NliData
from autolr.errors import UsageError
from autolr.model.padding import ensure_padding
from autolr.spec.study import make_spec
from autolr.tasks.class_scorer import predict
from autolr.tasks.prompted import NOTHING, Prompted, _continuations

TEMPLATES = ["{premise} : {hypothesis} :", "the man eats {hypothesis} a {premise} in :"]
DATA = NliData(
    "hand",
    ("a dog runs", "the cat sleeps in the park", "a man"),
    ("a dog eats", "the cat runs", "the man runs home"),
    (0, 1, 2),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = write_decoder(tmp_path_factory.mktemp("model"))
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def task_of(model, words: list[str], side: str = "right", templates: list[str] = TEMPLATES) -> Prompted:
    made = tokenizer(side=side)
    ensure_padding(model, made)
    spec = make_spec({"budgets": ["1x-flops"], "data": {"templates": templates, "words": words}}, "test")
    return Prompted.of(model, made, 64, spec)


def likelihood(model, prompt: str, word: str) -> float:
    """Σ log p of the word's tokens after the prompt, one position after the other, without padding."""
    made = tokenizer()
    start, ids = len(made(prompt)["input_ids"]), made(f"{prompt} {word}")["input_ids"]
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(log_p[i - 1, ids[i]]) for i in range(start, len(ids)))


def expected(model, words: list[str]) -> torch.Tensor:
    def at(template: str, premise: str, hypothesis: str) -> torch.Tensor:
        prompt = template.replace("{premise}", premise).replace("{hypothesis}", hypothesis)
        return torch.tensor([likelihood(model, prompt, word) for word in words])

    rows = []
    for premise, hypothesis in zip(DATA.premises, DATA.hypotheses, strict=True):
        each = [at(t, premise, hypothesis) - at(t, NOTHING, NOTHING) for t in TEMPLATES]
        rows.append(torch.stack(each).mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("words", [["yes", "may", "no"], ["yes", "may be", "no cat home"]])
@pytest.mark.parametrize("size", [1, 3])
def test_the_logits_are_the_words_likelihoods_less_the_prior(model, words, side, size):
    """Words of one token and of several, whatever the padding."""
    task = task_of(model, words, side)
    batches = task.batches(DATA, size, "cpu")
    order = task.order(DATA)
    found = predict(model, batches, readout=task.readout)
    torch.testing.assert_close(found, expected(model, words)[order].float(), atol=1e-4, rtol=1e-4)
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == [DATA.labels[i] for i in order]
    halves = predict(model, batches, halved=True, readout=task.readout)
    torch.testing.assert_close(found, halves, atol=1e-5, rtol=1e-5)


def test_each_model_has_its_own_prior(model):
    """So that a checkpoint measured alone gets the figure that its study found."""
    words, other = ["yes", "may be", "no"], build("gpt2-lm")
    task = task_of(model, words)
    batches = task.batches(DATA, 3, "cpu")
    found = predict(other, batches, readout=task.readout)
    torch.testing.assert_close(found, expected(other, words)[task.order(DATA)].float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found, predict(other, batches, readout=task_of(other, words).readout))


def test_a_sentence_may_hold_the_name_of_the_other(model):
    made = tokenizer()
    found, _ = _continuations(made, "{premise} : {hypothesis} :", ["yes", "no"], "a {hypothesis} runs", "dog")
    assert list(found) == made("a {hypothesis} runs : dog :")["input_ids"]


def test_positions_are_counted_from_the_text_on():
    """GPT-2's, with a tokenizer that pads on the left."""
    words, gpt2 = ["yes", "may be", "no"], build("gpt2-lm")
    task = task_of(gpt2, words, "left")
    found = predict(gpt2, task.batches(DATA, 3, "cpu"), readout=task.readout)
    torch.testing.assert_close(found, expected(gpt2, words)[task.order(DATA)].float(), atol=1e-4, rtol=1e-4)


def test_words_of_one_token_take_one_pass_for_each_prompt(model):
    short, long = task_of(model, ["yes", "may", "no"]), task_of(model, ["yes", "may be", "no"])
    assert (short.readout.together, long.readout.together) == (2, 6)


def test_the_gradients_are_those_of_the_labels(model):
    """Backpropagating them from the output gives the Fisher information of the labels with respect to it."""
    task = task_of(model, ["yes", "may be", "no"])
    [batch] = task.batches(DATA, 3, "cpu")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    mask = inputs["attention_mask"].bool()
    output = model(**inputs).logits.detach().double().requires_grad_(True)
    vectors = task.cotangents(output, mask)
    assert len(vectors) == task.backward_passes
    labels = task.readout.read(output, mask)
    p = labels.detach().double().softmax(-1)
    for pair in range(3):
        rows = torch.stack([torch.autograd.grad(labels[pair, k], output, retain_graph=True)[0] for k in range(3)])
        live = torch.stack([*rows, *vectors]).flatten(1).any(0)  # elsewhere both are zero
        jacobian = rows.flatten(1)[:, live].double()
        exact = jacobian.mT @ (torch.diag(p[pair]) - torch.outer(p[pair], p[pair])) @ jacobian
        own = slice(pair * task.readout.together, (pair + 1) * task.readout.together)
        parts = [torch.zeros_like(output).index_copy(0, torch.arange(len(output))[own], v[own]) for v in vectors]
        found = sum(torch.outer(v.flatten()[live], v.flatten()[live]) for v in parts)
        torch.testing.assert_close(found, exact, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"templates": ["{premise} so what"]}, r"--template .* must hold \{premise\} and \{hypothesis\}"),
        ({"words": ["yes", "no"]}, r"--words yes,no must be three different words"),
        ({"words": ["unheard", "unseen", "unread"]}, r"the words unheard, unseen, unread are the same tokens"),
        ({"words": ["yes", "yes no", "no"]}, r"of the words yes, yes no, no one is the beginning of another"),
    ],
)
def test_prompts_that_cannot_be_asked_are_refused(model, changes, said):
    with pytest.raises(UsageError, match=said):
        task_of(model, **{"words": ["yes", "may", "no"], "templates": TEMPLATES, **changes})


@pytest.mark.parametrize(("flag", "text"), [("--template", "{premise} : {hypothesis} :"), ("--words", "yes,may,no")])
def test_a_classifier_takes_no_prompt(tmp_path, flag, text):
    data = write_pairs(tmp_path / "test.jsonl", 6)
    done = CliRunner().invoke(app, ["eval", str(write_model(tmp_path / "m")), "--data", str(data), flag, text])
    assert done.exit_code == 2, done.output
    assert f"{flag} is for a language model that is prompted" in " ".join(done.stderr.split())


def test_a_study_of_prompts_from_end_to_end(tmp_path: Path):
    """The checkpoint is a language model again, and ``autolr eval`` asks it the same way."""
    words, template = "yes,may be,no", "{premise} : {hypothesis} :"
    given = {"--model": write_decoder(tmp_path / "model"), "--template": template, "--words": words}
    given |= {"--train": write_pairs(tmp_path / "train.jsonl", 60), "--budget": "0.7x-nonembedding-params"}
    given |= {"--validation": write_pairs(tmp_path / "validation.jsonl", 60, 180), "--study": tmp_path / "study"}
    given |= {"--trials": 5, "--multiple": 1, "--search-examples": 20, "--selection-examples": 20}
    flags = [str(part) for pair in given.items() for part in pair]
    done = CliRunner().invoke(app, ["search", *flags, "--json"])
    assert done.exit_code == 0, done.output
    checkpoint = next((tmp_path / "study" / "front").iterdir())
    assert "AutoModelForCausalLM" in (checkpoint / "README.md").read_text()
    asked = ["--data", str(given["--validation"]), "--template", template, "--words", words, "--json"]
    found = CliRunner().invoke(app, ["eval", str(checkpoint), *asked])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["n"] == 60
