import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from omni_jobs.embedded.account import Account, own_folder
from omni_jobs.embedded.home import Home, Occupied, running
from omni_jobs.embedded.identity import Identity, boot_id, identify
from omni_jobs.embedded.state import State
from omni_jobs.errors import Refused

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "a home")
    home.create()
    return home


def test_the_key_is_made_once_and_is_nobody_elses_to_read(home: Home) -> None:
    keys: list[str] = []
    threads = [threading.Thread(target=lambda: keys.append(Home(home.path).key())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8 and len(set(keys)) == 1 and len(keys[0]) > 40
    assert mode(home / "key") == 0o600


def test_a_home_is_private_and_as_root_can_be_passed_through(home: Home) -> None:
    assert mode(home.path) == (0o711 if os.geteuid() == 0 else 0o700)
    assert {mode(folder) for folder in (home.logs, home.backups, home / "secrets")} == {0o700}


def test_a_held_home_names_the_pid_that_holds_it(home: Home) -> None:
    with home.locked(), pytest.raises(Occupied, match=f"pid {os.getpid()}"), Home(home.path).locked():
        pass
    with home.locked():
        pass


def test_a_state_is_running_only_while_its_very_process_lives(home: Home) -> None:
    me = identify(os.getpid())
    assert me is not None
    home.write_state(State(supervisor=me, children={"api": me}, scraps=("/tmp/x",), ready=True))
    assert running(home.path) == home.state()
    assert mode(home.state_path) == 0o600
    home.write_state(State(supervisor=Identity(me.pid, me.started - 1, boot_id())))
    assert running(home.path) is None


def test_a_broken_state_is_no_state(home: Home) -> None:
    home.state_path.write_text("{")
    assert home.state() is None


@needs_root
def test_as_root_a_home_below_a_closed_folder_is_refused_and_the_folder_named() -> None:
    with tempfile.TemporaryDirectory() as closed:
        home = Home(Path(closed) / "omni")
        home.create()
        account = Account.for_data(home / "postgres")
        with pytest.raises(Refused, match=f"{account.name}, who may not enter {closed}"):
            own_folder(home / "postgres", account)


@needs_root
def test_a_home_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(Refused, match="uid 65534"):
        Home(tmp_path).create()
