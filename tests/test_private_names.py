"""What is not public of the libraries that the package builds on: each name by itself, so that a release that takes one
away fails here with that name; and where such names may be used.
"""

import ast
import inspect
from functools import cache
from pathlib import Path

import optuna
import pytest
import torch
import transformers
from botorch.acquisition.multi_objective import logei
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, RDBStorage

import autolr
from autolr.optimization import optuna_access as access

PACKAGE = Path(autolr.__file__).parent
OPTUNA, BOTORCH = "optimization/optuna_access.py", "optimization/sampler/acquisition.py"
USERS = {
    "_storage": {OPTUNA},
    "_study_id": {OPTUNA},
    "_trial_id": {OPTUNA},
    "_backend": {OPTUNA},
    "_get_trials": {OPTUNA},
    "_create_new_trial": {OPTUNA},
    "_set_trial_param": {OPTUNA},
    "_contains": {OPTUNA},
    "_suggest": set(),
    "fixed_params": {OPTUNA},
    "_load_attempted": {BOTORCH},
}
"""Private name of Optuna or BoTorch -> the files that may use it."""


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(directions=["minimize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@cache
def names_in(file: Path) -> set[str]:
    """Return the attributes and strings of a file that may be private names of a library."""
    found = set()
    for node in ast.walk(tree(file)):
        own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if isinstance(node, ast.Attribute) and not own:
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


@pytest.mark.parametrize("name", sorted(USERS))
def test_a_private_name_is_used_in_its_file_alone(name: str) -> None:
    users = {str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py") if name in names_in(file)}
    assert users == USERS[name], name


@pytest.mark.parametrize("library", ["optuna", "botorch", "gpytorch", "linear_operator", "ray"])
def test_private_modules_are_imported_in_one_file_at_most(library: str) -> None:
    users = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(tree(file)):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(module.split(".")[0] == library and "._" in module for module in modules):
                users.add(str(file.relative_to(PACKAGE)))
    assert users == ({OPTUNA} if library == "optuna" else set())


def test_ray_is_imported_by_the_driver_and_by_the_look_at_its_nodes_alone() -> None:
    """A third file asks whether it is installed."""
    users = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(tree(file)):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(module.split(".")[0] == "ray" for module in modules):
                users.add(str(file.relative_to(PACKAGE)))
    assert users == {"optimization/workers/ray_driver.py", "workflows/check_cluster.py", "workflows/search.py"}


def test_study_storage(study: optuna.Study) -> None:
    assert isinstance(access.storage_of(study), BaseStorage), "optuna.Study._storage"


def test_study_study_id(study: optuna.Study) -> None:
    storage = access.storage_of(study)
    assert access.study_id(study) == storage.get_study_id_from_name(study.study_name), "optuna.Study._study_id"


def test_trial_trial_id(study: optuna.Study) -> None:
    """Of a trial that runs and of a frozen one."""
    trial = study.ask()
    storage, number = access.storage_of(study), trial.number
    expected = storage.get_trial_id_from_study_id_trial_number(access.study_id(study), number)
    assert access.trial_id(trial) == expected, "optuna.Trial._trial_id"
    assert access.trial_id(study.trials[number]) == expected, "optuna.trial.FrozenTrial._trial_id"
    assert access.as_stored(trial).number == number


def test_a_running_trial_can_be_taken_up_by_its_id(study: optuna.Study) -> None:
    study.ask().set_user_attr("mine", 1)
    again = access.taken_up(study, study.trials[0])
    assert (again.number, again.user_attrs) == (0, {"mine": 1}), "optuna.Trial(study, trial_id)"


def test_fixed_params(study: optuna.Study) -> None:
    study.enqueue_trial({"x": 0.5})
    assert access.enqueued_params(study.trials[0]) == {"x": 0.5}, "system attribute fixed_params of an enqueued trial"
    numbers = [study.ask().number, study.ask().number]
    assert [access.enqueued_params(study.trials[number]) for number in numbers] == [{"x": 0.5}, {}]


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [
        (FloatDistribution(0.0, 1.0), 0.5, 1.5),
        (IntDistribution(2, 10, step=4), 6, 7),
        (CategoricalDistribution(("a", None)), None, "b"),
        (FloatDistribution(0.0, 1.0), 1, "one"),
    ],
)
def test_contains(distribution: optuna.distributions.BaseDistribution, inside: object, outside: object) -> None:
    assert access.takes(distribution, inside), "optuna.distributions.*._contains"
    assert not access.takes(distribution, outside), "optuna.distributions.*._contains"


def test_get_trials(study: optuna.Study) -> None:
    """What samplers read the trials by, in every way that they call it."""
    given = inspect.signature(optuna.Study._get_trials).parameters
    assert list(given) == ["self", "deepcopy", "states", "use_cache"], "optuna.Study._get_trials"
    study.ask()
    study.ask({"x": FloatDistribution(0.0, 1.0)})
    study.enqueue_trial({"x": 0.5, "y": 1})
    view = access.StudyOfSpace(study, frozenset({"x"}))
    seen = [view.get_trials(), view.trials, view._get_trials(use_cache=True), view._get_trials(deepcopy=False)]
    assert [[trial.number for trial in trials] for trials in seen] == [[1, 2]] * 4
    assert len(study.trials) == 3


@pytest.mark.parametrize("name", access.CACHE_CALLS)
def test_methods_that_the_cache_calls(name: str) -> None:
    cache = inspect.getsource(optuna.storages._CachedStorage)
    assert f"self._backend.{name}(" in cache, f"optuna.storages._CachedStorage calls {name} of what it caches no more"
    assert callable(getattr(RDBStorage, name)), f"optuna.storages.RDBStorage.{name}"


def test_the_cache_calls_no_other_private_method() -> None:
    called = set()
    for node in ast.walk(ast.parse(inspect.getsource(optuna.storages._CachedStorage))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self._backend":
            called.add(node.attr)
    private = {name for name in called if name.startswith("_")}
    unused = {"_get_best_trial_id", "_get_stale_trial_ids"}  # of the best trial, of Optuna's own heartbeat
    assert private == {*access.CACHE_CALLS, *unused}, "calls of a database that would not wait for it"


def test_backend_of_the_cache(tmp_path: Path) -> None:
    """The engine is that of the storage behind the cache; a journal has none."""
    storage = RDBStorage(f"sqlite:///{tmp_path}/study.db")
    behind = access.storage_of(optuna.create_study(storage=storage))
    assert behind is not storage, "optuna puts no cache before a database any more"
    assert access.database_engine(behind) is storage.engine, "optuna.storages._CachedStorage._backend"
    assert access.database_engine(optuna.storages.InMemoryStorage()) is None


def test_every_call_of_a_database_goes_through_the_decorator(tmp_path: Path) -> None:
    calls = []

    def counted(call):
        def counts(*args, **kwargs):
            calls.append(call.__name__)
            return call(*args, **kwargs)

        return counts

    storage = access.database_storage(counted)(f"sqlite:///{tmp_path}/study.db")
    study = optuna.create_study(storage=storage)
    study.enqueue_trial({"x": 0.5})
    trial = study.ask({"x": FloatDistribution(0.0, 1.0)})
    study.tell(trial, 1.0)
    assert study.best_value == 1.0
    assert set(access.CACHE_CALLS) <= set(calls)
    assert "set_trial_state_values" in calls


def test_journal_operations_and_replay() -> None:
    """The codes in journals that exist are those of today's Optuna."""
    assert (access.SET_STUDY_USER_ATTR, access.SET_STUDY_SYSTEM_ATTR) == (2, 3), "JournalOperation.SET_STUDY_*_ATTR"
    replay = access.JournalReplay("reader")
    change = {"op_code": 0, "worker_id": "a", "study_name": "s", "directions": [1]}
    replay.apply_logs([change, {"op_code": 2, "worker_id": "a", "study_id": 0, "user_attr": {"k": 1}}])
    assert replay.get_study(0).user_attrs == {"k": 1}
    assert replay.log_number_read == 2, "JournalStorageReplayResult.log_number_read"
    with pytest.raises(KeyError):
        replay.get_trial(0)


def test_load_attempted() -> None:
    """BoTorch compiles its kernel unless this global says that it was tried."""
    assert isinstance(logei._load_attempted, bool), "botorch...logei._load_attempted"
    assert "if _load_attempted:\n        return" in inspect.getsource(logei._try_load_fused_kernel)


@pytest.mark.parametrize("name", ["_parameters", "_forward_hooks", "_forward_pre_hooks"])
def test_private_names_of_a_torch_module(name: str) -> None:
    assert isinstance(getattr(torch.nn.Linear(2, 2), name), dict), f"torch.nn.Module.{name}"


def test_private_functions_of_torch() -> None:
    """Without the first nothing is fused, without the second a fused layer has nothing to run on."""
    assert torch._C._len_torch_dispatch_stack() == 0, "torch._C._len_torch_dispatch_stack"
    assert hasattr(torch.ops.mkldnn, "_linear_pointwise"), "torch.ops.mkldnn._linear_pointwise"


def test_private_names_of_transformers() -> None:
    config = transformers.BertConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    config.vocab_size = 12
    model = transformers.BertModel(config)
    assert model.config._attn_implementation in ("eager", "sdpa"), "transformers.PretrainedConfig._attn_implementation"
    assert hasattr(model, "_keys_to_ignore_on_load_unexpected"), "PreTrainedModel._keys_to_ignore_on_load_unexpected"
    assert hasattr(transformers.AutoModel, "_model_mapping"), "transformers.AutoModel._model_mapping"
    assert "_hf_peft_config_loaded" in dir(model), "PreTrainedModel._hf_peft_config_loaded"
