"""What the writer writes is a directory as the official ones are, and exercises every term of the arithmetic."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors import safe_open  # noqa: E402

from tests.workers.engine.checkpoint.conftest import ALGOS  # noqa: E402
from tests.workers.engine.checkpoint.planted import INDEX, shards  # noqa: E402
from workers.engine.checkpoint import configs  # noqa: E402
from workers.engine.checkpoint.drawn import Drawn  # noqa: E402
from workers.engine.checkpoint.expected import Part  # noqa: E402
from workers.engine.checkpoint.write import main, write  # noqa: E402
from workers.engine.messages import read_messages  # noqa: E402
from workers.engine.template import ChatOptions, transcript  # noqa: E402
from workers.engine.tokenizer import Tokenizer  # noqa: E402

Directory = Callable[..., Path]
FILES = {"config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
         "special_tokens_map.json", "chat_template.jinja", INDEX,
         "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}  # fmt: skip


@pytest.mark.parametrize("algo", ALGOS)
def test_the_files_are_those_of_the_repository(tiny: Directory, algo: str | None) -> None:
    directory = tiny(algo)
    assert {path.name for path in directory.iterdir()} == FILES | ({"hf_quant_config.json"} if algo else set())
    index = json.loads((directory / INDEX).read_text())
    found = {}
    for path in shards(directory):
        with safe_open(path, "pt") as file:
            found |= dict.fromkeys(file.keys(), path.name)
    assert found == index["weight_map"] and len(set(found.values())) == 2
    preprocessor = json.loads((directory / "preprocessor_config.json").read_text())
    assert preprocessor["max_model_len"] == 16384 and preprocessor["patch_size"] == 4


def test_the_tokenizer_is_one_that_transformers_loads_too(tiny: Directory) -> None:
    published = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tiny())
    ours, messages = Tokenizer.load(tiny()), [{"role": "user", "content": "Say it: é."}]
    text = published.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert text == transcript(read_messages(messages), options=ChatOptions(enable_thinking=False))
    assert published(text)["input_ids"] == ours.encode_prompt(text)
    assert (published.eos_token_id, published.pad_token_id) == (11, 0)


def test_shards_are_of_like_size_and_tensors_aligned(tiny: Directory) -> None:
    one, other = (path.stat().st_size for path in shards(tiny("NVFP4")))
    assert 0.5 < one / other < 2
    from workers.engine.checkpoint.directory import Directory
    from workers.engine.checkpoint.shards import ITEM_BYTES

    stored = Directory.open(tiny("NVFP4")).stored.values()
    assert all(one.start % ITEM_BYTES[one.dtype] == 0 for one in stored)


def test_the_same_seed_gives_the_same_numbers_in_any_order() -> None:
    one, other = Drawn(configs.tiny()), Drawn(configs.tiny())
    names = one.names[:20]
    first = {name: one.tensor(name) for name in names}
    assert all(torch.equal(other.tensor(name), first[name]) for name in reversed(names))
    assert not torch.equal(Drawn(configs.tiny(), seed=1).tensor("mlp1.1.weight"), one.tensor("mlp1.1.weight"))


def test_nothing_stays_at_its_neutral_value() -> None:
    drawn = Drawn(configs.tiny())
    for name in drawn.names:
        tensor = drawn.tensor(name).float()
        assert tensor.isfinite().all(), name
        if tensor.numel() > 1 and not drawn.expected[name].ignored:
            assert tensor.std() > 0.01, name
            assert not (tensor == 0).any() and not (tensor == 1).any(), name


def test_the_terms_of_the_recurrence_are_in_their_range() -> None:
    drawn, mixer = Drawn(configs.tiny()), "language_model.backbone.layers.0.mixer"
    decay = drawn.tensor(f"{mixer}.A_log").exp()
    step = torch.nn.functional.softplus(drawn.tensor(f"{mixer}.dt_bias"))
    assert ((decay >= 1) & (decay <= 16)).all() and decay.std() > 0.5
    assert ((step > 0.00099) & (step < 0.101)).all()
    variance = drawn.tensor("sound_encoder.encoder.layers.0.conv.norm.running_var")
    assert (variance > 0).all()


def test_dtypes_are_those_of_the_official_repositories() -> None:
    raw = configs.tiny() | {"torch_dtype": "bfloat16"}
    drawn = Drawn(raw, "NVFP4")
    for name in drawn.names:
        one = drawn.expected[name]
        tensor = drawn.tensor(name)
        assert tensor.shape == drawn.shape(name), name
        expected = {"BF16": "bfloat16", "F32": "float32", "F8_E4M3": "float8_e4m3fn", "U8": "uint8", "I64": "int64"}
        assert str(tensor.dtype) == f"torch.{expected[one.dtype]}", name


def test_the_slice_is_drawn_tensor_by_tensor() -> None:
    drawn = Drawn(configs.sliced(), "FP8")
    sizes = Counter()
    for one in drawn.expected.values():
        sizes[one.part] += one.parameters
    # Layers M, E, *, E, and what stands around them; of the tower 2 blocks instead of 32. Numbers of spec 10.1.
    assert sizes[Part.LANGUAGE] == 38_744_896 + 2 * (1_297_468_032 + 128) + 23_399_040 + 704_645_760
    assert sizes[Part.VISION] == 653_611_520 - 30 * 19_677_440
    weight = drawn.tensor("language_model.backbone.layers.0.mixer.in_proj.weight")
    assert weight.shape == (10304, 2688) and weight.dtype == torch.float8_e4m3fn


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(FileExistsError, match="expected an empty directory"):
        write(Drawn(configs.tiny()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_as_a_program_it_writes_the_same(tiny: Directory, tmp_path: Path) -> None:
    main([str(tmp_path / "new"), "--algo", "FP8"])
    for path in tiny("FP8").iterdir():
        assert (tmp_path / "new" / path.name).read_bytes() == path.read_bytes(), path.name
