"""The loop of every watcher: list, wait until what is there has settled, take it in once, hand results out.

The ledger is the memory: killed at any point, the next start takes up what has no job yet and hands out what has not
been handed out. A part that is down is waited for. Taking in and handing out are two threads: neither waits for the
other, and a result that cannot be handed out waits alone.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from omni_jobs.errors import Damaged, NotFound, OmniError, TooMany, Unavailable, UsageError
from omni_jobs.intake.outputs import Output, outputs_of
from omni_jobs.intake.submit import Intake
from omni_jobs.job import JobState
from omni_jobs.settings import Settings
from omni_jobs.store import ledger
from omni_jobs.store.database import is_outage
from omni_jobs.telemetry import get_logger

# Objects taken in after one look.
BATCH = 100
LONGEST_PAUSE_S = 30.0
# A result that cannot be handed out is tried so often, about four minutes long; an outage does not count.
MOST_TRIES = 8
FIRST_RETRY_S = 2.0
LONGEST_RETRY_S = 300.0
# After so many outages in a row the others are not tried either, until the next round.
OUTAGES_IN_A_ROW = 3
STOP_TIMEOUT_S = 3.0


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


@dataclass(slots=True)
class Late:
    """A result that could not be handed out.

    Attributes:
        tries: those that count.
        handed_out: how many others had been handed out by then.
    """

    tries: int = 0
    failures: int = 0
    again_at: float = 0.0
    handed_out: int = 0


class Lister:
    """One watched place. Runs in two threads until `stop` is set."""

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
        # By ledger id. Only the thread that hands out knows these.
        self._late: dict[str, Late] = {}
        self._handed_out = 0

    def run(self) -> None:
        giving = threading.Thread(target=self._repeat, args=(self.hand_out,), name="hand-out", daemon=True)
        giving.start()
        self._repeat(self.take_in)
        giving.join(STOP_TIMEOUT_S)

    def _repeat(self, act: Callable[[], None]) -> None:
        pause = self._settings.poll_s
        while not self._stop.is_set():
            try:
                act()
                pause = self._settings.poll_s
            except Stopped:
                return
            except Exception as error:
                pause = min(LONGEST_PAUSE_S, pause * 2)
                self._log.warning("watch.failed", error=f"{type(error).__name__}: {error}"[:300], again_in_s=pause)
            self._stop.wait(pause)

    def take_in(self) -> None:
        """Look once, and take what has settled while there is room for more jobs."""
        for seen in self._settled()[:BATCH]:
            if not self._take(seen):
                return

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

    def _take(self, seen: Seen) -> bool:
        """False: there is no room for more jobs; this one stays for a later look."""
        self._check_stop()
        ledger_id = self._enter(seen)
        if ledger_id is None:
            return True
        try:
            # Before its bytes are copied.
            self._intake.require_room()
            self._place.take(seen, self._intake, ledger_id, self._stop)
        except TooMany as error:
            self._log.info("watch.waits", object=seen.object, reason=str(error))
            return False
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
        return True

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

    def hand_out(self) -> None:
        """Put the results of ended jobs where they belong. One that fails waits; the others go on."""
        now, outages = self._clock(), 0
        waiting = [ledger_id for ledger_id, late in self._late.items() if late.again_at > now]
        rows = ledger.finished(
            self._intake.db, tenant_id=self._settings.tenant, watch=self._place.name, but_not=waiting
        )
        for row in rows:
            self._check_stop()
            try:
                reason = self._give(row)
            except Stopped:
                raise
            except Exception as error:
                if is_outage(error):
                    raise
                outages = outages + 1 if _is_outage_of_a_place(error) else 0
                self._postpone(row, error)
                if outages >= OUTAGES_IN_A_ROW:
                    return
                continue
            outages = 0
            self._handed_out += 1
            self._note(row, reason)

    def _give(self, row: dict[str, Any]) -> str | None:
        """Hand out one result; why there is none, or no place for it."""
        try:
            outputs = outputs_of(self._intake.db, self._intake.blobs, self._settings.tenant, str(row["job_id"]))
            if not outputs:
                return f"no_result: the job {JobState(row['state']).fate} and has no result"
            self._place.give(row["object"], outputs)
        except NoPlace as error:
            return f"no_place: {error}"
        except NotFound as error:
            return f"not_found: {error}"
        return None

    def _postpone(self, row: dict[str, Any], error: Exception) -> None:
        """Try it again later, or never: an outage counts as a try only if others were handed out meanwhile."""
        late = self._late.setdefault(str(row["ledger_id"]), Late(handed_out=self._handed_out))
        late.failures += 1
        if not _is_outage_of_a_place(error) or late.handed_out < self._handed_out:
            late.tries += 1
        late.handed_out = self._handed_out
        pause = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(late.failures - 1, 16))
        late.again_at = self._clock() + pause
        reason = f"{_kind(error)}: {error}"[:500]
        if late.tries >= MOST_TRIES:
            self._note(row, reason)
            return
        ledger.mark(self._intake.db, str(row["ledger_id"]), "taken", f"{reason} (tried {late.failures} times)")
        self._log.warning("watch.postponed", object=row["object"], reason=reason, again_in_s=pause)

    def _note(self, row: dict[str, Any], reason: str | None) -> None:
        ledger.mark(self._intake.db, str(row["ledger_id"]), "delivered", reason)
        self._late.pop(str(row["ledger_id"]), None)
        about = {"object": row["object"], "job": str(row["job_id"])}
        if reason is not None:
            self._log.warning("watch.not_delivered", **about, reason=reason)
        else:
            self._log.info("watch.delivered", **about, state=row["state"])

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped("told to end")


def _is_outage_of_a_place(error: Exception) -> bool:
    return isinstance(error, Unavailable | OSError)


def _kind(error: Exception) -> str:
    match error:
        case Damaged():
            return "damaged"
        case Unavailable() | OSError():
            return "unavailable"
        case _:
            return f"internal: {type(error).__name__}"
