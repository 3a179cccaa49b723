"""What is told of models that were refused: the latest of each kind, in the order of time."""

from edge.refused import KEPT, UNVOUCHED_KEPT, Refused
from shared.errors import ModelRefused
from shared.manifest import Manifest
from shared.refusals import UNVOUCHED, Cause
from tests.unit.test_admission import CLAIMS


def _of(number: int, version: int = 5) -> Manifest:
    return Manifest(**CLAIMS | {"sha256": f"{number:064x}", "version": version})


def _refuse(refused: Refused, manifest: Manifest, cause: Cause, at: str = "") -> bool:
    return refused.note(manifest, ModelRefused(cause, f"as a test of {cause} says"), at)


def test_claims_that_nobody_trusted_signed_never_displace_what_is_told_of_the_others() -> None:
    refused = Refused()
    for number in range(KEPT):
        _refuse(refused, _of(number), Cause.GOLDEN_ROWS)
    for number in range(100, 200):
        _refuse(refused, _of(number), sorted(UNVOUCHED)[number % len(UNVOUCHED)])
    told = [int(one.sha256, 16) for one in refused.told]
    assert told == [*range(UNVOUCHED_KEPT, KEPT), *range(200 - UNVOUCHED_KEPT, 200)]
    assert refused.counts.total() == KEPT + 100


def test_what_is_told_stands_in_the_order_of_time_whoever_signed_it() -> None:
    refused = Refused()
    causes = [Cause.UNSIGNED, Cause.EXPIRED, Cause.UNSIGNED, Cause.BOMB]
    for number, cause in enumerate(causes):
        _refuse(refused, _of(number), cause, at=str(number))
    assert [(one.at, one.reason) for one in refused.told] == [(str(n), cause) for n, cause in enumerate(causes)]


def test_a_forged_claim_about_a_refused_artifact_stands_beside_what_was_found_of_it() -> None:
    refused = Refused()
    _refuse(refused, _of(1), Cause.GOLDEN_ROWS)
    _refuse(refused, _of(1), Cause.BAD_SIGNATURE)
    assert [one.reason for one in refused.told] == ["golden_rows", "bad_signature"]
    refused.lift(_of(1))
    assert refused.told == []


def test_a_claim_that_was_refused_before_a_flood_of_forged_ones_does_not_count_again_after_it() -> None:
    refused = Refused()
    assert _refuse(refused, _of(1), Cause.OTHER_SITE)
    for number in range(100, 200):
        _refuse(refused, _of(number), Cause.UNSIGNED)
    refused.is_untold = False
    assert not _refuse(refused, _of(1), Cause.OTHER_SITE)
    assert not refused.is_untold
    assert _refuse(refused, _of(1), Cause.EXPIRED)
    assert refused.is_untold
