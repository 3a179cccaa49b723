"""What an event leaves behind: one commit, batches for central's record in it, and dead letters said aloud after it.

Invariants: the commit comes first among the effects; what is refused is committed as a dead letter with what was taken;
a commit says all that must be on disk with it: the ledger's numbers, the clock, the models, new forms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge.bounds import Bounds
from edge.changes import Changes
from edge.dialects.native import RefusedItem
from edge.effects import Commit, Effect, MakeGap, Publish
from edge.intake import Refused, Taken
from edge.letters import STRANGERS, Letters, letter_columns
from edge.models import Models
from edge.restoring import Restoring
from edge.rounds import Columns, Counters
from edge.site import SiteState
from edge.siteclock import SiteClock
from edge.uplink import UplinkLedger
from shared.clock import iso
from shared.messages import DeadLetter
from shared.params import Params
from shared.topics import SiteTopics


class Recording:
    """Makes commits and dead letters of one site."""

    def __init__(
        self,
        params: Params,
        *,
        site: SiteState,
        uplink: UplinkLedger,
        models: Models,
        restoring: Restoring,
        clock: SiteClock,
        topics: SiteTopics,
        bounds: Bounds,
        counters: Counters,
    ) -> None:
        self._params = params
        self._site = site
        self._uplink = uplink
        self._models = models
        self._restoring = restoring
        self._clock = clock
        self._topics = topics
        self._bounds = bounds
        self._counters = counters
        self._letters = Letters(params.edge.dead_letters_per_minute)
        self._forms_kept = len(site.forms)

    def commit(self, changes: Changes) -> Commit:
        """The commit of these changes, and of what goes with any."""
        if self._models.is_unwritten:
            changes.facts["models"] = self._models.take_fact()
        changes.facts |= {"next_seq": str(self._uplink.next_seq), "vouched": str(self._uplink.vouched)}
        changes.facts["wall_us"] = str(self._clock.believed_us)
        if self._restoring.wanted:
            changes.facts |= self._restoring.fact
        forms = self._site.forms
        changes.forms = [(number, forms[number]) for number in range(self._forms_kept, len(forms))]
        self._forms_kept = len(forms)
        return Commit(changes)

    def enqueue(self, changes: Changes, kinds: Mapping[str, Columns]) -> None:
        """Put rows into the outbox, by their kind."""
        changes.outbox += self._uplink.enqueue(kinds, self._at)

    def record(self, changes: Changes, taken: Taken, covariates: Columns | None = None) -> list[Effect]:
        """Commit what a batch changed, with its record rows and dead letters; then say the letters aloud."""
        letters = self._write_letters(taken.refused)
        kinds = {"readings": taken.columns(self._site), "dead_letters": letter_columns(letters)}
        self.enqueue(changes, {**kinds, "covariates": covariates or {}})
        published = [Publish(self._topics.dead_letter, letter.encode()) for letter in letters]
        return [self.commit(changes), *published, *self.make_room()]

    def refuse(self, topic: str, payload: bytes, reason: str) -> list[Effect]:
        """A control message that cannot be read is a dead letter like any other input."""
        self._counters["control", "refused"] += 1
        return self.record(Changes(), Taken(refused=[(topic, topic, RefusedItem(None, payload, reason))]))

    def make_room(self) -> list[Effect]:
        """A full outbox never withholds acks from meters: its oldest batches become one gap entry."""
        given_up = self._uplink.overflow(self._params.outbox.max_bytes)
        if given_up is None:
            return []
        self._bounds.reached("outbox", "outbox was full: its oldest batches became a gap", self._clock.wall_us)
        return [MakeGap(*given_up, reason="the outbox was full", at_us=self._clock.received_us)]

    def _write_letters(self, refused: Sequence[Refused]) -> list[DeadLetter]:
        if not refused:
            return []
        counted, wall_us = self._letters.counted, self._clock.wall_us
        letters = self._letters.write(refused, self._at, wall_us)
        self._counters["dead_letters", ""] += len(refused)
        if self._letters.counted > counted:
            self._bounds.reached("dead_letters", "more dead letters than edge.dead_letters_per_minute", wall_us)
        strangers = any(meter == STRANGERS for meter, _topic, _one in refused)
        if strangers and self._site.rows >= self._params.edge.max_meters:
            self._bounds.reached("meters", "edge.max_meters is reached", wall_us)
        return letters

    @property
    def _at(self) -> str:
        return iso(self._clock.received_us)
