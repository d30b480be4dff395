"""Answers are the same alone and in a batch, or the model is refused before anything is spent."""

import json
from pathlib import Path

import pytest
import torch
import transformers as hf
from architecture_table import SPECIAL, WORDS, tokenizer, write
from decoder_fixture import write_decoder
from nli_fixture import LABELS
from test_padding import prepared
from typer.testing import CliRunner

from autolr.cli.main import app
from autolr.data.nli import NliData
from autolr.errors import UsageError
from autolr.model.alone import check_same
from autolr.model.inputs import FULL, count_cut, grouped
from autolr.model.load import open_model
from autolr.spec.study import make_spec
from autolr.tasks import task_for

PAIRS = [
    (f"a {' '.join(WORDS[i % 20 : i % 20 + 1 + i % 5])} runs", WORDS[i % 7] + " sleeps" * (i % 3)) for i in range(60)
]


def write_pairs(path: Path, labels: list[str]) -> Path:
    rows = [{"premise": p, "hypothesis": h, "label": name} for (p, h), name in zip(PAIRS, labels, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers_one_by_one(source: Path) -> list[str]:
    """What the model says of each pair, by transformers alone: one pair, no padding, no mask."""
    model = hf.AutoModelForSequenceClassification.from_pretrained(source).eval()
    words = hf.AutoTokenizer.from_pretrained(source)
    with torch.no_grad():
        found = [int(model(torch.tensor([words(p, h)["input_ids"]])).logits[0].argmax()) for p, h in PAIRS]
    return [LABELS[i] for i in found]


def evaluated(source: Path, data: Path, *options: str):
    return CliRunner().invoke(app, ["eval", str(source), "--data", str(data), "--json", "--offline", *options])


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("changes", [{"padding_side": "left"}, {"padding_side": "left", "pad_token": None}])
@pytest.mark.parametrize("own", [0, None])
def test_eval_gives_what_one_text_at_a_time_gives(tmp_path, name: str, changes: dict, own: int | None):
    """Labels are the model's own answers, so all must be right; its tokenizer pads on the left and ends with </s>."""
    source = prepared(name, tmp_path, changes)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "pad_token_id": own}))
    wanted = answers_one_by_one(source)
    assert len(set(wanted)) > 1
    done = evaluated(source, write_pairs(tmp_path / "data.jsonl", wanted))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["accuracy"] == 1.0


def convbert(folder: Path) -> Path:
    """A model whose convolutions read the padding beside a text."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = hf.ConvBertConfig(
        vocab_size=len(WORDS) + len(SPECIAL), embedding_size=16, initializer_range=0.5, pad_token_id=0, **sizes
    )
    config.id2label, config.label2id = dict(enumerate(LABELS)), {name: i for i, name in enumerate(LABELS)}
    hf.ConvBertForSequenceClassification(config).save_pretrained(folder)
    tokenizer(True).save_pretrained(folder)
    return folder


def test_a_model_that_reads_the_padding_is_refused_and_asked_one_by_one_it_is_right(tmp_path):
    source = convbert(tmp_path / "model")
    wanted = answers_one_by_one(source)
    data = write_pairs(tmp_path / "data.jsonl", wanted)
    done = evaluated(source, data)
    assert done.exit_code == 2
    message = " ".join(done.stderr.split())
    assert "ConvBertForSequenceClassification answers a text otherwise alone" in message
    assert "--scoring-batch-size 1 asks about one text at a time" in message
    done = evaluated(source, data, "--scoring-batch-size", "1")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["accuracy"] == 1.0


def test_probes_of_a_model_that_reads_the_padding_are_refused(tmp_path):
    source = convbert(tmp_path / "model")
    texts = [f"{WORDS[i % 20]} {'dog ' * (i % 9)}{WORDS[i // 3]} {('eats', 'runs')[i % 2]}" for i in range(60)]
    rows = [("tr" if i < 40 else "te", i % 2, text) for i, text in enumerate(texts)]
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "verb.tsv").write_text("".join(f"{a}\t{b}\t{c}\n" for a, b, c in rows))
    arguments = ["probe", str(source), "--tasks", str(tmp_path / "tasks"), "--offline"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "probes: this ConvBertForSequenceClassification answers a text otherwise alone" in " ".join(
        done.stderr.split()
    )
    assert CliRunner().invoke(app, [*arguments, "--scoring-batch-size", "1"]).exit_code == 0


def test_minimal_pairs_of_a_decoder_that_sees_its_padding_are_refused(tmp_path, monkeypatch: pytest.MonkeyPatch):
    source = write_decoder(tmp_path / "model")
    pairs = tmp_path / "order.jsonl"
    rows = [{"good": f"a dog {'runs ' * n}", "bad": f"runs a dog {'in ' * n}"} for n in range(1, 9)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["probe", str(source), "--minimal-pairs", str(pairs), "--offline", "--json"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    whole = hf.LlamaModel.forward

    def blind(self, input_ids=None, attention_mask=None, position_ids=None, **rest):
        padding = (attention_mask == 0).sum(1, keepdim=True)
        return whole(self, input_ids + padding, attention_mask, position_ids, **rest)

    monkeypatch.setattr(hf.LlamaModel, "forward", blind)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "minimal pairs: this LlamaForCausalLM answers a text otherwise alone" in " ".join(done.stderr.split())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_in_half_precision_is_no_reason_to_refuse(dtype):
    """An answer that is the small difference of large numbers is rounded by more than a share of itself."""

    def ask(asked: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        weight = asked.weight.double()
        rounded = torch.finfo(asked.weight.dtype).eps * 300
        return weight[:2], weight[:2] + rounded * torch.tensor([[0.0], [1.0]])

    model = torch.nn.Linear(4, 3).to(dtype)
    check_same("mine", model, ask)
    with pytest.raises(UsageError, match="mine: this Linear answers a text otherwise alone"):
        check_same("mine", model, lambda asked: (asked.weight, asked.weight.flip(0)))


def test_a_pair_is_tokenized_once(tmp_path, monkeypatch: pytest.MonkeyPatch):
    source = write_decoder(tmp_path / "model")
    spec = make_spec(
        {
            "model": str(source),
            "data": {"words": ["runs", "sleeps", "eats"]},
            "budgets": ["1x-flops"],
            "run": {"offline": True},
        },
        "test",
    )
    model, words = open_model(spec)
    calls = []
    whole = type(words).__call__
    monkeypatch.setattr(type(words), "__call__", lambda self, *a, **k: calls.append(a) or whole(self, *a, **k))
    task = task_for(spec, model, words, str(source))
    data = NliData("hand", tuple(p for p, _ in PAIRS), tuple(h for _, h in PAIRS), (0,) * len(PAIRS))
    task.batches(data, 8, "cpu")
    seen = len(calls)
    task.cut(data)
    task.order(data)
    task.batches(data.select(range(9)), 4, "cpu")
    assert len(calls) == seen


def test_batches_are_bounded_by_tokens_and_leave_nothing_out():
    lengths = sorted([3, 5, 8, 200, FULL, FULL + 1, 3 * FULL, 8192])
    found = [lengths[batch] for batch in grouped(lengths, 4)]
    assert [length for batch in found for length in batch] == lengths
    assert all(len(batch) <= 4 for batch in found)
    assert all(len(batch) == 1 or len(batch) * max(batch) <= 4 * FULL for batch in found)
    assert found == [[3, 5, 8, 200], [FULL, FULL + 1], [3 * FULL], [8192]]
    assert list(grouped([], 4)) == []


def test_what_is_cut_is_counted():
    words = tokenizer(True)
    texts = ["dog " * n for n in (1, 5, 6, 7, 30)]
    assert count_cut(words, (texts,), 8) == 2  # with <s> and </s>, seven words are nine tokens
    assert count_cut(words, (texts, ["a"] * 5), 8) == 4
    assert count_cut(words, (texts,), 48) == 0


def test_eval_says_how_many_texts_are_cut(tmp_path):
    source = write("bert", tmp_path / "model")
    rows = [{"premise": "dog " * n, "hypothesis": "a", "label": LABELS[0]} for n in (1, 2, 60, 70)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = evaluated(source, tmp_path / "data.jsonl")
    assert done.exit_code == 0, done.output
    assert "2 of 4 pairs have more than 48 tokens: cut" in " ".join(done.stderr.split())
