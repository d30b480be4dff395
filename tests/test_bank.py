"""The bank: what is stored comes back, what is foreign or damaged is never used, only what is missing is computed."""

import re
import stat
import struct
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from tiny import batches, build, sequences, sized

import autolr.bank
from autolr.bank import STATISTICS, Bank
from autolr.errors import AutolrError, FactorizationError, UsageError
from autolr.forms.swap import compressed
from autolr.machine.tensor_digest import tensor_digest
from autolr.methods import BANK_FOLDERS, get_methods, kfac, svd
from autolr.model.units import find_units, unit_weight
from autolr.statistics.calibrate import calibrate
from autolr.types import Candidate, Method

BATCHES = batches(sequences(6), 6)


class Case:
    """A model, its units and a calibration that counts what it is asked for."""

    def __init__(self, family="bert", n_units=3):
        self.model = build(family)
        self.units = find_units(self.model).units[:n_units]
        self.names = [unit.name for unit in self.units]
        self.calibrated = Counter()
        self.decomposed = Counter()

    def calibrate(self, units):
        self.calibrated.update(unit.name for unit in units)
        return calibrate(self.model, units, BATCHES)

    def bank(self, directory, key="key", **options):
        return Bank(directory, self.model, self.units, key, **options)

    def methods(self, *names):
        """The methods, with a count of their calls."""

        def counting(method):
            def decompose(weight, stats):
                self.decomposed[method.name] += 1
                return method.decompose(weight, stats)

            return replace(method, decompose=decompose)

        return tuple(counting(method) for method in get_methods(names))

    def everything(self, *methods):
        return {(kind, name) for kind in (STATISTICS, *methods) for name in self.names}


@pytest.fixture
def case():
    return Case()


def tensors_of(record):
    return {f.name: value for f in fields(record) if torch.is_tensor(value := getattr(record, f.name))}


def test_what_is_stored_comes_back_from_disk(case, tmp_path):
    """Statistics bit for bit; factors as float32 up to the break-even rank; the whole spectrum in float64."""
    methods = get_methods(["svd", "losparse"])
    case.bank(tmp_path).build(methods, case.calibrate)
    reopened = case.bank(tmp_path)
    measured = {unit.name: stats for unit, stats in calibrate(case.model, case.units, BATCHES)}
    for unit in case.units:
        stats = reopened.stats(unit.name)
        assert (stats.n_tokens, stats.n_examples) == (measured[unit.name].n_tokens, measured[unit.name].n_examples)
        for name, value in tensors_of(measured[unit.name]).items():
            assert torch.equal(getattr(stats, name), value)
        assert torch.equal(reopened.mean(unit.name), stats.mean)
        summary = reopened.summary(unit.name)
        assert (summary.n_tokens, summary.tokens_per_example) == (stats.n_tokens, stats.tokens_per_example)
        for method in methods:
            exact = method.decompose(unit_weight(case.model, unit).double(), measured[unit.name])
            stored = reopened.decomposition(unit.name, method.name)
            assert stored.max_rank == unit.break_even
            assert stored.left.dtype == stored.right.dtype == torch.float32
            assert torch.equal(stored.left, exact.left[:, : unit.break_even].float())
            assert torch.equal(stored.right, exact.right[: unit.break_even].float())
            assert torch.equal(stored.singular_values, exact.singular_values)
            assert len(stored.tails()) == min(unit.out_features, unit.in_features) + 1
            if method.keeps_rows:
                assert torch.equal(stored.row_energy, exact.row_energy)
                assert torch.equal(stored.row_metric, exact.row_metric)


def test_moments_without_gradients_come_back_without_gradients(case, tmp_path):
    bank = case.bank(tmp_path)
    bank.build(get_methods(["afm"]), lambda units: calibrate(case.model, units, BATCHES, cotangents=None))
    stats = case.bank(tmp_path).stats(case.names[0])
    assert stats.fisher_in is None
    assert stats.out_gram is None


def test_a_method_with_gradients_can_be_added_to_a_bank_measured_without(case, tmp_path):
    def without(units):
        return calibrate(case.model, units, BATCHES, None)

    case.bank(tmp_path).build(case.methods("svd", "drone"), without)
    computed = case.bank(tmp_path).build(case.methods("svd", "drone", "fwsvd"), case.calibrate)
    assert set(computed) == case.everything("fwsvd")
    assert case.decomposed == {"svd": len(case.names), "drone": len(case.names), "fwsvd": len(case.names)}
    assert case.bank(tmp_path).build(case.methods("fwsvd", "drone"), without) == []


def test_factors_are_mapped_from_the_file_not_read_into_memory(case, tmp_path):
    bank = case.bank(tmp_path)
    bank.build(get_methods(["svd"]), case.calibrate)
    held = bank.decomposition(case.names[0], "svd")
    path = str(tmp_path / "svd" / f"{case.names[0]}.safetensors")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("mapped files are listed on Linux only")
    spans = [line.split()[0].split("-") for line in maps.read_text().splitlines() if line.endswith(path)]
    assert any(int(start, 16) <= held.left.data_ptr() < int(end, 16) for start, end in spans)


def test_only_what_is_missing_is_computed(case, tmp_path):
    """A second build computes nothing; another method needs no calibration; a deleted file comes back alone."""
    built = case.bank(tmp_path).build(case.methods("svd"), case.calibrate)
    assert set(built) == case.everything("svd")
    assert len(built) == 6
    assert case.calibrated == Counter(case.names)

    assert case.bank(tmp_path).build(case.methods("svd"), case.calibrate) == []
    built = case.bank(tmp_path).build(case.methods("svd", "afm"), case.calibrate)
    assert built == [("afm", name) for name in case.names]

    (tmp_path / "afm" / f"{case.names[1]}.safetensors").unlink()
    (tmp_path / STATISTICS / f"{case.names[2]}.safetensors").unlink()
    built = case.bank(tmp_path).build(case.methods("svd", "afm"), case.calibrate)
    assert built == [(STATISTICS, case.names[2]), ("afm", case.names[1])]
    assert case.calibrated == Counter([*case.names, case.names[2]])
    assert case.decomposed == {"svd": 3, "afm": 4}


def test_every_folder_of_the_bank_that_is_no_methods_is_listed():
    """What the package puts there beside decompositions and recoveries; their names are refused for those."""
    sources = [file.read_text(encoding="utf-8") for file in Path(autolr.bank.__file__).parent.rglob("*.py")]
    folders = {name for source in sources for name in re.findall(r'bank\.directory / "(\w+)"', source)}
    assert {STATISTICS, *folders} == set(BANK_FOLDERS)


def test_progress_counts_every_layer(case, tmp_path):
    told = []
    case.bank(tmp_path).build(get_methods(["svd", "afm"]), case.calibrate, lambda *args: told.append(args))
    assert told == [("decompose", done, 3) for done in (1, 2, 3)]


def test_other_weights_are_not_mistaken(case, tmp_path):
    """One changed weight rebuilds its own decompositions; the calibration key stands for the rest of the model."""
    case.bank(tmp_path).build(case.methods("svd", "afm"), case.calibrate)
    case.model.get_submodule(case.names[1]).weight.data[0, 0] += 1e-3
    with pytest.raises(AutolrError, match=f"no usable svd of {case.names[1]}; build it again"):
        case.bank(tmp_path).decomposition(case.names[1], "svd")
    built = case.bank(tmp_path).build(case.methods("svd", "afm"), case.calibrate)
    assert built == [("svd", case.names[1]), ("afm", case.names[1])]


def test_another_calibration_is_not_mistaken(case, tmp_path):
    """Everything that reads statistics is rebuilt; plain SVD does not read any."""
    case.bank(tmp_path).build(case.methods("svd", "afm"), case.calibrate)
    with pytest.raises(AutolrError, match=f"no usable statistics of {case.names[0]}"):
        case.bank(tmp_path, "other").stats(case.names[0])
    with pytest.raises(AutolrError, match=f"no usable afm of {case.names[0]}"):
        case.bank(tmp_path, "other").decomposition(case.names[0], "afm")
    built = case.bank(tmp_path, "other").build(case.methods("svd", "afm"), case.calibrate)
    assert set(built) == case.everything("afm")


def test_another_version_of_a_method_and_another_precision_are_not_mistaken(case, tmp_path):
    case.bank(tmp_path).build(get_methods(["svd"]), case.calibrate)
    newer = replace(svd.METHOD, version=svd.METHOD.version + 1)
    built = case.bank(tmp_path).build([newer], case.calibrate)
    assert built == [("svd", name) for name in case.names]
    assert case.bank(tmp_path).build([newer], case.calibrate) == []
    assert len(case.bank(tmp_path, dtype=torch.float64).build([newer], case.calibrate)) == 3


def test_a_file_under_another_units_name_is_not_used(case, tmp_path):
    case.bank(tmp_path).build(get_methods(["svd"]), case.calibrate)
    one, other = (tmp_path / "svd" / f"{name}.safetensors" for name in case.names[:2])
    one.write_bytes(other.read_bytes())
    assert case.bank(tmp_path).build(get_methods(["svd"]), case.calibrate) == [("svd", case.names[0])]


def damages(content):
    """The file with each byte of its header and some of its data flipped, cut short at many places, and empty."""
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for index in [*range(header), *range(header, len(content), 41), len(content) - 1]:
        damaged = bytearray(content)
        damaged[index] ^= 1 + index % 255
        yield f"byte {index}", bytes(damaged)
    for length in [0, 1, 8, header - 1, header, *range(header + 1, len(content), 97), len(content) - 1]:
        yield f"cut to {length}", content[:length]
    yield "longer", content + b"\0"


@pytest.mark.parametrize("kind", [STATISTICS, "losparse"])
def test_a_damaged_file_is_never_used(kind, tmp_path):
    """Every byte of the header and a sample of the data flipped, and the file cut: always as if it were absent."""
    case = Case(n_units=1)
    (name,) = case.names
    methods = get_methods(["losparse"])
    case.bank(tmp_path).build(methods, case.calibrate)
    path = tmp_path / kind / f"{name}.safetensors"
    content = path.read_bytes()
    for what, damaged in damages(content):
        path.write_bytes(damaged)
        bank = case.bank(tmp_path)
        read = bank.stats if kind == STATISTICS else lambda unit, bank=bank: bank.decomposition(unit, kind)
        try:
            read(name)
        except AutolrError as error:
            assert f"has no usable {kind} of {name}; build it again" in str(error)  # noqa: PT017  names the damage
        else:
            pytest.fail(f"a file with {what} was used")
    path.write_bytes(damaged)
    assert case.bank(tmp_path).build(methods, case.calibrate) == [(kind, name)]
    assert case.bank(tmp_path).build(methods, case.calibrate) == []


def test_a_foreign_safetensors_file_in_the_place_of_one_is_not_used(case, tmp_path):
    from safetensors.torch import save_file

    case.bank(tmp_path).build(get_methods(["svd"]), case.calibrate)
    save_file({"left": torch.ones(2, 2)}, tmp_path / "svd" / f"{case.names[0]}.safetensors")
    assert case.bank(tmp_path).build(get_methods(["svd"]), case.calibrate) == [("svd", case.names[0])]


def test_a_process_killed_while_writing_leaves_nothing_that_is_used(tmp_path):
    """It dies by a signal in the middle of the second file: what was finished is kept, the rest is computed."""
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import autolr.bank
from test_bank import Case
from autolr.methods import get_methods
real, written = autolr.bank.save_tensors, []
def dying(tensors, path, metadata):
    real(tensors, path, metadata)
    written.append(path)
    if len(written) == 5:  # after three files of statistics
        Path(path).write_bytes(Path(path).read_bytes()[:100])
        os.kill(os.getpid(), signal.SIGKILL)
autolr.bank.save_tensors = dying
case = Case()
case.bank(Path({str(tmp_path)!r})).build(get_methods(["svd"]), case.calibrate)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -9, done.stderr
    assert len(list((tmp_path / "svd").iterdir())) == 1
    assert len(list(tmp_path.glob("writing-*/*.safetensors"))) == 1  # torn
    case = Case()
    assert case.bank(tmp_path).build(case.methods("svd"), case.calibrate) == [("svd", name) for name in case.names[1:]]
    assert not case.calibrated
    assert torch.isfinite(case.bank(tmp_path).decomposition(case.names[1], "svd").left).all()
    assert not list(tmp_path.glob("writing-*"))


def test_a_write_that_fails_leaves_the_old_file(case, tmp_path, monkeypatch):
    case.bank(tmp_path).build(get_methods(["svd"]), case.calibrate)
    path = tmp_path / "svd" / f"{case.names[0]}.safetensors"
    content = path.read_bytes()

    def full_disk(tensors, path, metadata):
        Path(path).write_bytes(b"torn")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(autolr.bank, "save_tensors", full_disk)
    with pytest.raises(OSError, match="No space left"):
        case.bank(tmp_path).build([replace(svd.METHOD, version=9)], case.calibrate)
    assert path.read_bytes() == content
    assert not list(tmp_path.glob("writing-*"))


def test_a_bank_is_read_by_whom_the_umask_lets_read(case, tmp_path):
    case.bank(tmp_path).build(get_methods(["svd"]), case.calibrate)
    (tmp_path / "usual").touch()
    files = [tmp_path / "usual", *tmp_path.glob("*/*.safetensors")]
    assert len(files) == 7
    assert len({stat.S_IMODE(file.stat().st_mode) for file in files}) == 1


@pytest.mark.parametrize("kind", [STATISTICS, "svd"])
def test_what_may_not_be_read_is_told_and_not_computed_again(case, tmp_path, monkeypatch, kind):
    """Whoever runs the tests may read everything, so the refusal is made."""
    case.bank(tmp_path).build(get_methods(["svd"]), case.calibrate)
    held, opened = tmp_path / kind / f"{case.names[1]}.safetensors", Path.open

    def refusing(path, *args, **options):
        if path == held:
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refusing)
    told = f"cannot read {held}: Permission denied; have its owner let others read the study"
    for ask in (
        lambda bank: bank.build(case.methods("svd"), case.calibrate),
        lambda bank: bank.complete(case.methods("svd")),
        lambda bank: bank.present(case.methods("svd")),
    ):
        with pytest.raises(UsageError, match=told):
            ask(case.bank(tmp_path))
    assert not case.decomposed


def failing(error=None, **changes):
    def decompose(weight, stats):
        if error is not None:
            raise error
        return replace(svd.decompose(weight, stats), **changes)

    return Method("fragile", 1, frozenset(), decompose, "nobody 2000")


def changed(weight, **parts):
    """A decomposition with other parts, whose shapes no annotation has checked."""
    result = svd.decompose(weight, None)
    for name, value in parts.items():
        object.__setattr__(result, name, value)
    return result


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        (failing(FactorizationError("no root")), "no root"),
        (failing(torch.linalg.LinAlgError("did not converge")), "did not converge"),
        (failing(left=torch.full((16, 16), torch.nan, dtype=torch.float64)), "left is not finite"),
        (failing(right=torch.full((16, 16), 1e39, dtype=torch.float64)), "right is not finite"),
        (failing(singular_values=torch.full((16,), torch.inf, dtype=torch.float64)), "singular_values is not finite"),
    ],
    ids=["failed", "not-converged", "nan", "overflow", "infinite"],
)
def test_a_failed_decomposition_names_unit_and_method_and_stores_nothing(case, tmp_path, method, complaint):
    with pytest.raises(FactorizationError, match=f"fragile of {case.names[0]}: .*{complaint}"):
        case.bank(tmp_path).build([method], case.calibrate)
    assert not (tmp_path / "fragile").exists()


@pytest.mark.parametrize(
    ("decompose", "complaint"),
    [
        (lambda w, s: 1 / 0, "the method failed with ZeroDivisionError: division by zero"),
        (lambda w, s: None, "must return an autolr.types.Decomposition, got NoneType"),
        (lambda w, s: (w, w, w), "must return an autolr.types.Decomposition, got tuple"),
        (lambda w, s: changed(w, left=None), r"left must be floating-point numbers of shape \(16, 16\), got NoneType"),
        (
            lambda w, s: changed(w, left=w[:5]),
            r"left must be .* of shape \(16, 16\), got torch.float64 of shape \(5, 16",
        ),
        (lambda w, s: changed(w, right=w[:2]), "right must have 8 to 16 rows, got 2"),
        (lambda w, s: changed(w, right=None), "right must have 8 to 16 rows, got 0"),
        (lambda w, s: changed(w, right=w[:, :5]), r"right must be .* of shape \(16, 16\), got .*\(16, 5\)"),
        (lambda w, s: changed(w, singular_values=torch.ones(4)), r"singular_values must be .* of shape \(16,\), got"),
        (lambda w, s: changed(w, singular_values=torch.ones(16).long()), "singular_values must be floating.*int64"),
        (lambda w, s: changed(w, row_energy=torch.ones(3)), r"row_energy must be .* of shape \(16,\), got"),
        (lambda w, s: changed(w, singular_values=torch.arange(16.0)), "singular values must fall and not be negative"),
        (lambda w, s: changed(w, singular_values=-torch.arange(16.0)), "singular values must fall and not be negative"),
        (lambda w, s: svd.decompose(w.flip(0), s), "left @ right must give the weight at full rank, got an output off"),
        (lambda w, s: svd.decompose(w.mul_(2), s), "left @ right must give the weight at full rank, got an output off"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_no_decomposition_of_the_weight_is_told_and_not_stored(case, tmp_path, decompose, complaint, dtype):
    case.model.to(dtype)
    before = unit_weight(case.model, case.units[0]).clone()
    with pytest.raises(FactorizationError, match=f"stray of {case.names[0]}: .*{complaint}"):
        case.bank(tmp_path).build([Method("stray", 1, frozenset(), decompose, "nobody 2000")], case.calibrate)
    assert not (tmp_path / "stray").exists()
    assert torch.equal(unit_weight(case.model, case.units[0]), before)


def test_a_method_that_keeps_rows_must_give_them_energies(case, tmp_path):
    rowless = replace(svd.METHOD, name="rowless", keeps_rows=True)
    with pytest.raises(FactorizationError, match=r"row_energy must be floating-point numbers of shape .* got NoneType"):
        case.bank(tmp_path).build([rowless], case.calibrate)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), torch.linalg.LinAlgError("no")])
def test_what_a_device_cannot_decompose_is_decomposed_on_the_cpu(case, tmp_path, monkeypatch, error):
    """The meta device stands for one with too little memory: everything is moved there, and fails."""
    monkeypatch.setattr(autolr.bank, "_fast_device", lambda _: torch.device("meta"))
    seen = []

    def decompose(weight, stats):
        seen.append((weight.device.type, stats.in_gram.device.type, weight.dtype))
        if weight.is_meta:
            raise error
        return kfac.decompose(weight, stats)

    bank = case.bank(tmp_path)
    bank.build([replace(kfac.METHOD, decompose=decompose)], case.calibrate)
    assert seen == [("meta", "meta", torch.float64), ("cpu", "cpu", torch.float64)] * 3
    assert torch.isfinite(bank.decomposition(case.names[0], "kfac").left).all()


def test_a_method_without_needs_is_not_shown_any_statistics(case, tmp_path):
    seen = []

    def decompose(weight, stats):
        seen.append(stats)
        return svd.decompose(weight, None)

    case.bank(tmp_path).build([Method("blind", 1, frozenset(), decompose, "nobody 2000")], case.calibrate)
    assert seen == [None] * 3


def test_a_method_that_is_not_registered_works_through_its_bank(case, tmp_path):
    """What a build was given is known to that bank, although no table lists it."""
    bank = case.bank(tmp_path)
    bank.build([replace(svd.METHOD, name="mine")], case.calibrate)
    assert torch.equal(bank.decomposition(case.names[0], "mine").left, bank.decomposition(case.names[0], "mine").left)


def test_a_rebuilt_decomposition_replaces_the_open_one(case, tmp_path):
    bank = case.bank(tmp_path)
    bank.build(get_methods(["svd"]), case.calibrate)
    name = case.names[0]
    old = bank.decomposition(name, "svd")

    def scaled(weight, stats):
        result = svd.decompose(weight, stats)
        return replace(result, left=2 * result.left, right=result.right / 2)

    bank.build([replace(svd.METHOD, version=2, decompose=scaled)], case.calibrate)
    assert torch.equal(bank.decomposition(name, "svd").left, 2 * old.left)


def test_compression_through_the_bank_keeps_mapped_files_untouched(case, tmp_path):
    """The factors of a compressed model are copies: training them does not write into the bank."""
    bank = case.bank(tmp_path)
    bank.build(get_methods(["svd"]), case.calibrate)
    path = tmp_path / "svd" / f"{case.names[0]}.safetensors"
    content = path.read_bytes()
    with compressed(case.model, Candidate.of({case.names[0]: sized("svd", 4)}), bank), torch.no_grad():
        layer = case.model.get_submodule(case.names[0])
        layer.left.weight.fill_(7.0)
        layer.right.weight.fill_(7.0)
    assert path.read_bytes() == content
    assert case.bank(tmp_path).build(get_methods(["svd"]), case.calibrate) == []


def test_digests_depend_on_names_shapes_dtypes_and_bytes_alone():
    a, b = torch.arange(6.0), torch.arange(4)
    digest = tensor_digest({"a": a, "b": b})
    assert digest == tensor_digest({"b": b.clone(), "a": a.clone()})
    assert digest == tensor_digest({"a": torch.stack([a, a], 1)[:, 0], "b": b})
    others = [
        {"a": a},
        {"c": a, "b": b},
        {"a": a.reshape(2, 3), "b": b},
        {"a": a.view(torch.int32), "b": b},
        {"a": -a, "b": b},
    ]
    assert len({digest, *map(tensor_digest, others)}) == 6
