"""The loop of every watcher: list, wait until what is there has settled, take it in once, hand results out.

The ledger is the memory: killed at any point, the next start takes up what has no job yet and hands out what has not
been handed out. A part that is down is waited for.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from omni_jobs.errors import NotFound, OmniError, UsageError
from omni_jobs.intake.outputs import Output, outputs_of
from omni_jobs.intake.submit import Intake
from omni_jobs.settings import Settings
from omni_jobs.store import ledger
from omni_jobs.telemetry import get_logger

# Objects taken in before results are handed out again.
BATCH = 100
LONGEST_PAUSE_S = 30.0


class Changed(OmniError):
    """An object changed, or went, while it was taken in: look again."""


class Stopped(OmniError):
    """We are to end."""


class NoPlace(OmniError):
    """Results cannot be put where they belong, and another try would not help."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as one look found it.

    Attributes:
        version: changes when the bytes do.
        fault: why it can never be taken, such as a symbolic link.
    """

    object: str
    version: str
    size_bytes: int
    fault: str = ""


class Watched(Protocol):
    """A place that is watched. Raises `Unavailable` or `OSError` while it cannot be reached."""

    @property
    def name(self) -> str:
        """What the ledger calls it."""
        ...

    def look(self) -> Iterator[Seen]:
        """What could be taken; names that are no media are left out."""
        ...

    def take(self, seen: Seen, intake: Intake, ledger_id: str, stop: threading.Event) -> None:
        """Make a job of it.

        Raises:
            Changed: it is not what was seen.
            UsageError: it can never be taken.
        """
        ...

    def give(self, object: str, outputs: Sequence[Output]) -> None:
        """Put results where they belong; the same call twice is harmless.

        Raises:
            NoPlace: they cannot be put there.
        """
        ...


class Lister:
    """One watched place. Runs in one thread until `stop` is set."""

    def __init__(
        self,
        place: Watched,
        intake: Intake,
        settings: Settings,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place, self._intake, self._settings = place, intake, settings
        self._stop, self._clock = stop, clock
        self._log = get_logger().bind(watch=place.name)
        self._known: set[tuple[str, str]] | None = None
        # Object -> its version, and since when it has had it.
        self._unsettled: dict[str, tuple[str, float]] = {}

    def run(self) -> None:
        pause = self._settings.poll_s
        while not self._stop.is_set():
            try:
                self.round()
                pause = self._settings.poll_s
            except Stopped:
                return
            except Exception as error:
                pause = min(LONGEST_PAUSE_S, pause * 2)
                self._log.warning("watch.failed", error=f"{type(error).__name__}: {error}"[:300], again_in_s=pause)
            self._stop.wait(pause)

    def round(self) -> None:
        """Look once, take what has settled, hand out what is done."""
        for seen in self._settled()[:BATCH]:
            self._take(seen)
        self._hand_out()

    def _settled(self) -> list[Seen]:
        if self._known is None:
            self._known = ledger.known(self._intake.db, tenant_id=self._settings.tenant, watch=self._place.name)
        now, before, found = self._clock(), self._unsettled, []
        # Not yet the new one: a look that fails half-way must not forget what is settling.
        current: dict[str, tuple[str, float]] = {}
        for seen in self._place.look():
            self._check_stop()
            if (seen.object, seen.version) in self._known:
                continue
            if seen.fault:
                self._refuse(seen, seen.fault)
                continue
            version, since = before.get(seen.object, ("", now))
            current[seen.object] = (seen.version, since if version == seen.version else now)
            if version == seen.version and now - since >= self._settings.settle_s:
                found.append(seen)
        self._unsettled = current
        return found

    def _take(self, seen: Seen) -> None:
        self._check_stop()
        ledger_id = self._enter(seen)
        if ledger_id is None:
            return
        try:
            self._place.take(seen, self._intake, ledger_id, self._stop)
        except Changed:
            self._unsettled.pop(seen.object, None)
        except UsageError as error:
            self._refuse(seen, str(error))
        except OSError as error:
            # A bad sector, a full disk: the others go on.
            self._log.warning("watch.not_taken", object=seen.object, error=str(error))
        else:
            self._deal_with(seen)
            self._log.info("watch.taken", object=seen.object, size_bytes=seen.size_bytes)

    def _enter(self, seen: Seen) -> str | None:
        ledger_id = ledger.see(
            self._intake.db,
            tenant_id=self._settings.tenant,
            watch=self._place.name,
            object=seen.object,
            version=seen.version,
            size_bytes=seen.size_bytes,
        )
        if ledger_id is None:
            self._deal_with(seen)
        return ledger_id

    def _refuse(self, seen: Seen, reason: str) -> None:
        ledger_id = self._enter(seen)
        if ledger_id is not None:
            ledger.mark(self._intake.db, ledger_id, "refused", reason)
            self._deal_with(seen)
            self._log.warning("watch.refused", object=seen.object, reason=reason)

    def _deal_with(self, seen: Seen) -> None:
        assert self._known is not None
        self._known.add((seen.object, seen.version))
        self._unsettled.pop(seen.object, None)

    def _hand_out(self) -> None:
        db, tenant = self._intake.db, self._settings.tenant
        for row in ledger.finished(db, tenant_id=tenant, watch=self._place.name):
            self._check_stop()
            reason = None
            outputs = outputs_of(db, self._intake.blobs, tenant, str(row["job_id"]))
            try:
                if outputs:
                    self._place.give(row["object"], outputs)
                else:
                    reason = f"the job has {row['state']} and has no result"
            except (NoPlace, NotFound) as error:
                reason = str(error)
                self._log.warning("watch.no_place", object=row["object"], job=str(row["job_id"]), reason=reason)
            ledger.mark(db, str(row["ledger_id"]), "delivered", reason)
            self._log.info("watch.delivered", object=row["object"], job=str(row["job_id"]), state=row["state"])

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped("told to end")
