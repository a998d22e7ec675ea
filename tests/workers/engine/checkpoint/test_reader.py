"""A directory is read as it lies there, or refused with a list of all that is wrong with it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import load_file, save_file  # noqa: E402

from omni_jobs.errors import Damaged  # noqa: E402
from tests.workers.engine.checkpoint.conftest import ALGOS  # noqa: E402
from tests.workers.engine.checkpoint.planted import INDEX, Tensors, edit, shards  # noqa: E402
from workers.engine.checkpoint import configs  # noqa: E402
from workers.engine.checkpoint.directory import Directory as Files  # noqa: E402
from workers.engine.checkpoint.drawn import Drawn  # noqa: E402
from workers.engine.checkpoint.errors import CheckpointError, Fault  # noqa: E402
from workers.engine.checkpoint.reader import Checkpoint  # noqa: E402
from workers.engine.checkpoint.shards import read_header  # noqa: E402
from workers.engine.checkpoint.write import write  # noqa: E402
from workers.engine.config import ConfigError  # noqa: E402
from workers.engine.quant import Format  # noqa: E402

Directory = Callable[..., Path]
LAYERS = "language_model.backbone.layers."
UP = f"{LAYERS}1.mixer.experts.3.up_proj"


def faults(directory: Path) -> list[tuple[Fault, str, str]]:
    with pytest.raises(CheckpointError) as raised:
        Checkpoint.open(directory)
    assert isinstance(raised.value, Damaged) and isinstance(raised.value, ValueError)
    return [(one.fault, one.name, one.detail) for one in raised.value.problems]


@pytest.mark.parametrize("algo", ALGOS)
def test_every_tensor_is_what_the_official_library_reads(tiny: Directory, algo: str | None) -> None:
    checkpoint = Checkpoint.open(tiny(algo))
    theirs = {name: tensor for path in shards(tiny(algo)) for name, tensor in load_file(path).items()}
    assert len(theirs) >= 206 and set(checkpoint.names) == set(theirs)
    for name, tensor in theirs.items():
        ours = checkpoint.tensor(name)
        assert (ours.dtype, ours.shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(ours.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name
    assert checkpoint.size_bytes == sum(tensor.nbytes for tensor in theirs.values())


def test_tensors_are_views_on_the_file(tiny: Directory) -> None:
    checkpoint = Checkpoint.open(tiny())
    one, again = checkpoint.tensor("mlp1.1.weight"), checkpoint.tensor("mlp1.1.weight")
    assert one.data_ptr() == again.data_ptr()
    checkpoint.release("mlp1.1.weight")
    assert torch.equal(one, Checkpoint.open(tiny()).tensor("mlp1.1.weight"))


def resident_file_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssFile")))


def test_what_was_released_takes_no_memory(tiny: Directory, tmp_path: Path) -> None:
    size = 32 << 20
    save_file({"big": torch.ones(size, dtype=torch.uint8)}, tmp_path / "big.safetensors")
    stored = {one.name: one for one in read_header(tmp_path / "big.safetensors")}
    whole = Checkpoint(Files(tmp_path, Checkpoint.open(tiny()).config, stored, ()), {})
    tensor, before = whole.tensor("big"), resident_file_bytes()
    assert int(tensor.sum()) == size and resident_file_bytes() - before > 0.9 * size
    whole.release("big")
    assert resident_file_bytes() - before < 0.1 * size
    assert int(tensor.sum()) == size


def test_formats_are_those_of_the_tensors(tiny: Directory) -> None:
    for algo, expected in ((None, Format.DENSE), ("FP8", Format.FP8), ("NVFP4", Format.NVFP4)):
        checkpoint = Checkpoint.open(tiny(algo))
        assert checkpoint.formats[UP] is expected
        assert checkpoint.config.quant.kv_fp8 is (algo is not None)
    assert checkpoint.formats[f"{LAYERS}3.mixer.q_proj"] is Format.DENSE
    assert checkpoint.formats[f"{LAYERS}3.mixer.o_proj"] is Format.FP8


def test_one_file_without_an_index_is_read_as_well(copied: Directory) -> None:
    directory = copied()
    tensors = {name: tensor for path in shards(directory) for name, tensor in load_file(path).items()}
    for path in [*shards(directory), directory / INDEX]:
        path.unlink()
    save_file(tensors, directory / "model.safetensors")
    assert len(Checkpoint.open(directory).names) == len(tensors)


def rename(tensors: Tensors) -> None:
    tensors["mlp1.2.weight"] = tensors.pop("mlp1.1.weight")


def transpose(tensors: Tensors) -> None:
    tensors[f"{UP}.weight"] = tensors[f"{UP}.weight"].T


def repack(tensors: Tensors) -> None:
    tensors[f"{UP}.weight_scale"] = tensors[f"{UP}.weight_scale"].T


def halve(tensors: Tensors) -> None:
    tensors["mlp1.1.weight"] = tensors["mlp1.1.weight"].half()


def add(tensors: Tensors) -> None:
    tensors["language_model.backbone.layers.7.norm.weight"] = torch.ones(96)


def scale_layer(tensors: Tensors) -> None:
    tensors["vision_model.radio_model.model.blocks.0.layer_scale1.lambda1"] = torch.full((64,), 0.5)


@pytest.mark.parametrize(
    ("algo", "change", "expected"),
    [
        (None, lambda tensors: tensors.pop("mlp1.3.weight"), [(Fault.MISSING, "mlp1.3.weight", "")]),
        (None, add, [(Fault.LEFTOVER, "language_model.backbone.layers.7.norm.weight", "")]),
        (None, rename, [(Fault.LEFTOVER, "mlp1.2.weight", ""), (Fault.MISSING, "mlp1.1.weight", "")]),
        (None, transpose, [(Fault.SHAPE, f"{UP}.weight", "expected [48, 96], got [96, 48]")]),
        (None, halve, [(Fault.DTYPE, "mlp1.1.weight", "expected F32, got F16")]),
        (None, scale_layer, [(Fault.VALUE, "vision_model.radio_model.model.blocks.0.layer_scale1.lambda1",
                              "expected ones, got other factors")]),
        ("FP8", lambda tensors: tensors.pop(f"{UP}.weight_scale"), [(Fault.MISSING, f"{UP}.weight_scale", "")]),
        ("FP8", lambda tensors: tensors.pop(f"{UP}.input_scale"), [(Fault.MISSING, f"{UP}.input_scale", "")]),
        ("FP8", lambda tensors: tensors.pop(f"{UP}.weight"), [(Fault.MISSING, f"{UP}.weight", "")]),
        ("NVFP4", lambda tensors: tensors.pop(f"{UP}.weight_scale_2"), [(Fault.MISSING, f"{UP}.weight_scale_2", "")]),
        ("NVFP4", repack, [(Fault.SHAPE, f"{UP}.weight_scale", "expected [48, 6], got [6, 48]")]),
    ],
)  # fmt: skip
def test_each_fault_is_found_and_nothing_else(
    copied: Directory, algo: str | None, change: Callable[[Tensors], object], expected: list[tuple[Fault, str, str]]
) -> None:
    directory = copied(algo)
    edit(directory, change)
    assert sorted(faults(directory)) == sorted(expected)


def test_all_faults_come_in_one_error(copied: Directory) -> None:
    directory = copied()
    edit(directory, lambda tensors: [change(tensors) for change in (transpose, halve, add, rename)])
    assert {fault for fault, _, _ in faults(directory)} == {Fault.LEFTOVER, Fault.MISSING, Fault.SHAPE}


def test_a_long_list_is_counted_and_cut(copied: Directory) -> None:
    directory = copied()

    def drop(tensors: Tensors) -> None:
        for name in [name for name in tensors if ".experts." in name]:
            del tensors[name]

    edit(directory, drop)
    with pytest.raises(CheckpointError) as raised:
        Checkpoint.open(directory)
    assert "48 tensors missing (" in str(raised.value) and "and 44 more" in str(raised.value)
    assert len(str(raised.value)) < 600 and len(raised.value.problems) == 48


def test_a_scale_may_be_a_list_of_one(copied: Directory) -> None:
    directory = copied("FP8")
    edit(directory, lambda tensors: tensors.update({f"{UP}.weight_scale": tensors[f"{UP}.weight_scale"].reshape(1)}))
    assert Checkpoint.open(directory).tensor(f"{UP}.weight_scale").shape == (1,)


def test_a_vector_may_be_stored_wider_but_a_matrix_may_not(tmp_path: Path) -> None:
    write(Drawn(configs.tiny() | {"torch_dtype": "bfloat16"}), tmp_path)
    assert Checkpoint.open(tmp_path).tensor("mlp1.1.weight").dtype == torch.bfloat16
    edit(
        tmp_path, lambda tensors: tensors.update({f"{LAYERS}0.mixer.A_log": tensors[f"{LAYERS}0.mixer.A_log"].float()})
    )
    assert Checkpoint.open(tmp_path).tensor(f"{LAYERS}0.mixer.A_log").dtype == torch.float32
    edit(tmp_path, lambda tensors: tensors.update({"mlp1.1.weight": tensors["mlp1.1.weight"].float()}))
    assert faults(tmp_path) == [(Fault.DTYPE, "mlp1.1.weight", "expected BF16, got F32")]


def test_what_nothing_reads_may_be_absent_or_of_any_shape(copied: Directory) -> None:
    directory = copied()

    def change(tensors: Tensors) -> None:
        del tensors["sound_encoder.encoder.feature_extractor.featurizer.fb"]
        tensors["vision_model.radio_model.input_conditioner.norm_std"] = torch.ones(3, dtype=torch.float16)
        tensors["vision_model.radio_model.summary_idxs"] = torch.arange(3)
        tensors["vision_model.radio_model.model.blocks.0.layer_scale1.lambda1"] = torch.ones(64)
        tensors["vision_model.radio_model.model.blocks.1.layer_scale1.lambda1"] = torch.ones(64, dtype=torch.uint16)

    edit(directory, change)
    Checkpoint.open(directory)


def test_a_record_that_the_tensors_contradict_is_a_fault(copied: Directory) -> None:
    directory = copied("NVFP4")
    raw = json.loads((directory / "config.json").read_text())
    raw["quantization_config"]["quantized_layers"][UP] = {"quant_algo": "FP8"}
    raw["quantization_config"]["quantized_layers"]["nowhere"] = {"quant_algo": "FP8"}
    (directory / "config.json").write_text(json.dumps(raw))
    assert faults(directory) == [
        (Fault.RECORD, UP, "recorded FP8, got NVFP4"),
        (Fault.RECORD, "nowhere", "recorded FP8, got no such module"),
    ]


@pytest.mark.parametrize("left", [0, 7, 100, -1])
def test_a_file_cut_short_is_one_fault_and_its_tensors_are_not_called_missing(copied: Directory, left: int) -> None:
    directory = copied()
    first = shards(directory)[0]
    first.write_bytes(first.read_bytes()[:left])
    (fault,) = faults(directory)
    assert fault[:2] == (Fault.FILE, first.name) and "expected" in fault[2]


def test_a_file_that_is_not_there_is_one_fault(copied: Directory) -> None:
    directory = copied()
    shards(directory)[1].unlink()
    assert faults(directory) == [(Fault.FILE, "model-00002-of-00002.safetensors", "expected a file, got none")]


def test_without_index_and_single_file_that_is_said(copied: Directory) -> None:
    directory = copied()
    (directory / INDEX).unlink()
    assert faults(directory) == [(Fault.FILE, "model.safetensors", "expected a file, got none")]


def test_an_index_that_lies_is_a_fault(copied: Directory) -> None:
    directory = copied()
    index = json.loads((directory / INDEX).read_text())
    files = {path.name for path in shards(directory)}
    index["weight_map"]["mlp1.1.weight"] = (files - {index["weight_map"]["mlp1.1.weight"]}).pop()
    (directory / INDEX).write_text(json.dumps(index))
    said = "1 of its tensors are not where the index sees them, such as mlp1.1.weight"
    assert faults(directory) == [(Fault.FILE, file, said) for file in sorted(files)]


def test_a_tensor_in_two_files_is_a_fault(copied: Directory) -> None:
    directory = copied()
    one, other = shards(directory)
    taken = load_file(one)
    name = min(taken)
    save_file({**load_file(other), name: taken[name]}, other)
    assert (Fault.LEFTOVER, name, f"in {one.name} as well as in {other.name}") in faults(directory)


@pytest.mark.parametrize(
    "file",
    [
        "a.safetensors/../../x.safetensors",
        "a.safetensors\n",
        "../x.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        "x",
        "",
        "a\0.safetensors",
        7,
        None,
    ],
)
def test_an_index_that_names_anything_but_a_file_of_the_directory_is_refused(copied: Directory, file: Any) -> None:
    directory = copied()
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"]["mlp1.1.weight"] = file
    (directory / INDEX).write_text(json.dumps(index))
    (directory.parent / "x.safetensors").write_bytes(shards(directory)[0].read_bytes())
    with pytest.raises(ConfigError, match="expected the name of a file in the directory for mlp1"):
        Checkpoint.open(directory)


def test_a_link_out_of_the_directory_is_not_followed(copied: Directory) -> None:
    directory = copied()
    first = shards(directory)[0]
    first.rename(directory.parent / "elsewhere.safetensors")
    first.symlink_to(directory.parent / "elsewhere.safetensors")
    assert faults(directory) == [
        (Fault.FILE, first.name, "expected a file in the directory, got a link that leaves it")
    ]


def test_the_links_of_the_hubs_cache_are_followed(copied: Directory, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "24e67ea"
    blobs.mkdir(parents=True), snapshot.mkdir(parents=True)
    for path in copied().iterdir():
        path.rename(blobs / f"{path.name}-digest")
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}-digest")
    assert len(Checkpoint.open(snapshot).names) == 206


def test_a_pipe_does_not_keep_the_reader_waiting(copied: Directory) -> None:
    directory = copied()
    first = shards(directory)[0]
    first.unlink()
    os.mkfifo(first)
    assert faults(directory) == [(Fault.FILE, first.name, "expected a regular file, got something else")]


def test_no_directory_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a directory with config\.json"):
        Checkpoint.open(tmp_path / "nowhere")
