from pathlib import Path

import pytest

from omni_jobs.embedded.programs import Role, our_programs, settings_environment
from omni_jobs.settings import Settings


def test_settings_reach_another_process_as_they_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(
        home=Path("/srv/a home"),
        file_roots=(Path("/data"), Path("/more data")),
        allowed_hosts=("a.example", "b.example"),
        s3_sources=(),
        work_dir=None,
        drain_s=2.5,
        api_port=8000,
    )
    for name, value in settings_environment(given).items():
        monkeypatch.setenv(name, value)
    assert Settings() == given


def test_programs_are_the_api_a_worker_for_each_pool_and_a_watcher_for_each_target() -> None:
    programs = our_programs(("cpu", "io"), ["/srv/in", "s3://bucket"])
    assert [program.name for program in programs] == ["api", "worker-cpu", "worker-io", "watch-1", "watch-2"]
    assert [program.argv[2:] for program in programs if program.role is Role.WATCHER] == [
        ("omni_jobs.intake", "watch", "/srv/in"),
        ("omni_jobs.intake", "watch", "s3://bucket"),
    ]
    assert our_programs((), api=False) == []
