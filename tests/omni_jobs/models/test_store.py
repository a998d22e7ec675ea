"""Models by name, and what OMNI_MODEL means."""

from dataclasses import replace
from pathlib import Path

import pytest

from omni_jobs.errors import Conflict, Damaged, OmniError, Refused, UsageError
from omni_jobs.models import resolve_model
from omni_jobs.models.record import ModelFile, Record, State, part_of
from omni_jobs.models.store import Changed, ModelStore, NoModel, NotWhole
from omni_jobs.settings import Settings


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home" / "models")


def settings(tmp_path: Path, model: str) -> Settings:
    return Settings(home=tmp_path / "home", model=model)


def added(store: ModelStore, name: str = "omni", directory: Path | None = None, *, whole: bool = True) -> Record:
    """A model of two small files."""
    files = (ModelFile("config.json", 2, sha256="0" * 64), ModelFile("model.safetensors", 100))
    directory = directory or store.weights(name)
    record = Record(name, "hf:a/omni", directory, "FP8", files, 100, whole=whole, revision="f" * 40, digest="d" * 64)
    with store.locked(name):
        directory.mkdir(exist_ok=True, parents=True)
        (directory / "config.json").write_bytes(b"{}")
        (directory / "model.safetensors").write_bytes(bytes(100))
        store.write(record)
    return record


def test_a_record_comes_back_as_it_was_written(store: ModelStore) -> None:
    assert store.names() == [] and store.find("omni") is None
    record = added(store)
    assert store.names() == ["omni"] and store.find("omni") == record
    assert (record.size_bytes, record.held_bytes, record.state) == (102, 102, State.WHOLE)


def test_the_model_is_found_by_its_name(store: ModelStore, tmp_path: Path) -> None:
    record = added(store)
    assert resolve_model(settings(tmp_path, "omni")) == record.directory
    elsewhere = added(store, "other", tmp_path / "weights")
    assert resolve_model(settings(tmp_path, "other")) == elsewhere.directory == tmp_path / "weights"
    home = Settings(home=tmp_path / "none", models_dir=store.root, model="omni")
    assert resolve_model(home) == record.directory


def test_or_by_its_directory(store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = added(store, "omni", tmp_path / "weights").directory
    assert resolve_model(settings(tmp_path, str(directory))) == directory
    monkeypatch.chdir(tmp_path)
    assert resolve_model(settings(tmp_path, "weights")) == directory


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("", "no model is named: set OMNI_MODEL"),
        ("none", "OMNI_MODEL=none: neither a model of that name nor a directory"),
        ("../omni", "neither a model of that name nor a directory"),
        ("/", "a directory without config.json"),
    ],
)
def test_what_names_nothing_says_how_to_add(store: ModelStore, tmp_path: Path, named: str, said: str) -> None:
    with pytest.raises(NoModel, match=said) as caught:
        resolve_model(settings(tmp_path, named))
    assert "omni-jobs model add hf:" in str(caught.value)


def test_a_part_of_a_model_is_no_model(store: ModelStore, tmp_path: Path) -> None:
    record = added(store, whole=False)
    (record.directory / "model.safetensors").rename(part_of(record.directory / "model.safetensors"))
    assert record.state is State.PARTIAL
    with pytest.raises(NotWhole, match=r"not whole \(102 of 102 bytes are here\): `omni-jobs model add hf:a/omni`"):
        resolve_model(settings(tmp_path, "omni"))


@pytest.mark.parametrize(("left", "said"), [(None, "got no such file"), (99, "expected 100 bytes, got 99")])
def test_a_model_that_changed_is_no_model(store: ModelStore, tmp_path: Path, left: int | None, said: str) -> None:
    record = added(store)
    (record.directory / "model.safetensors").unlink()
    if left is not None:
        (record.directory / "model.safetensors").write_bytes(bytes(left))
    assert record.state is State.CHANGED
    with pytest.raises(Changed, match=f"{said}.*omni-jobs model add hf:a/omni"):
        resolve_model(settings(tmp_path, "omni"))


def test_removing_deletes_what_was_fetched_and_nothing_else(store: ModelStore, tmp_path: Path) -> None:
    added(store)
    elsewhere = added(store, "other", tmp_path / "weights").directory
    assert store.remove("omni") is None
    assert store.names() == ["other"] and not (store.root / "omni").exists()
    assert store.remove("other") == elsewhere and (elsewhere / "model.safetensors").exists()
    assert list(store.root.iterdir()) == []
    with pytest.raises(NoModel, match="no model 'omni' here"):
        store.remove("omni")


def test_a_removal_that_broke_off_leaves_no_model(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omni_jobs.models import store as module

    added(store)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            store.remove("omni")
    with pytest.raises(NotWhole):
        resolve_model(settings(tmp_path, "omni"))
    store.remove("omni")
    assert store.names() == []


def test_one_process_at_a_time(store: ModelStore) -> None:
    with store.locked("omni"):
        with pytest.raises(Conflict, match="omni: another `omni-jobs model` works on it"), store.locked("omni"):
            pass
        added_elsewhere = added(store, "other")
        assert (store.root / "omni" / "lock").exists()
    assert not (store.root / "omni").exists() and added_elsewhere.state is State.WHOLE


def test_a_record_that_is_none_is_said(store: ModelStore) -> None:
    added(store)
    (store.root / "omni" / "record.json").write_text('{"name": 7}')
    with pytest.raises(Damaged, match="not a record of ours; `omni-jobs model remove omni` clears it away"):
        store.find("omni")
    store.remove("omni")
    assert store.names() == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "-a", "a b", "a\n", "x" * 97, ".lock"])
def test_a_name_is_one_folder(store: ModelStore, name: str) -> None:
    for use in (store.find, store.weights, store.remove):
        with pytest.raises(UsageError, match="expected a name of letters"):
            use(name)


def test_a_home_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(Refused, match=r"cannot be used for models.*OMNI_MODELS_DIR"),
        ModelStore(tmp_path / "file" / "models").locked("omni"),
    ):
        pass


def test_the_home_is_nobody_elses_to_read(store: ModelStore) -> None:
    added(store)
    assert store.root.parent.stat().st_mode & 0o077 == 0


def test_every_error_is_one_that_a_user_may_read() -> None:
    assert all(issubclass(kind, OmniError) for kind in (NoModel, NotWhole, Changed))
    assert not replace(Record("a", "b", Path("c"), "FP8", (), 0)).whole
