"""Mending: units whose segment is missing or altered are worked again, they alone, whichever generation they are of.

What a unit is stands in the receipt that was taken back, so nothing is planned anew, and its bytes come out as before.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.domain.errors import PlanMismatchError, StoreError
from pipeline.domain.manifest import Manifest, Receipt
from pipeline.domain.privacy import holds_people
from pipeline.domain.unit import Stage, Unit
from pipeline.execute.enrolling import reclose
from pipeline.execute.galleries import prepare
from pipeline.execute.generations import read_step
from pipeline.execute.session import Session, work
from pipeline.flow.commit import Books, commit, enrolled_paths, enrolled_receipt_name, same_content
from pipeline.flow.erase.again import images_again
from pipeline.flow.parts import Parts
from pipeline.flow.versions import read_newest


def mend(session: Session, books: Books) -> None:
    """Work again what `books` took back: probes, then who is enrolled, then images; audits follow by themselves.

    Raises:
        StoreError: what was made again is not what was there before.
    """
    _require_whole_inputs(session.parts, books)
    for fingerprint in sorted({r.fingerprint for r in books.dropped.values()}):
        mine = {n: r for n, r in books.dropped.items() if r.fingerprint == fingerprint}
        if fingerprint == session.parts.prints.fingerprint or session.under is None:
            _mend(session, books, mine)
            continue
        # made under other filters: only they bring its bytes back
        generation = min(int(r.unit["generation"]) for r in mine.values())
        before = session.under(read_step(session.parts.store, generation)["recipe"])
        try:
            prepare(before)
            _mend(before, books, mine)
        finally:
            before.executor.close()


def _require_whole_inputs(parts: Parts, books: Books) -> None:
    """Refuse to work photographs again after an erasure: inputs that are gone decided what the others became."""
    if not books.dropped or not holds_people(parts.recipe) or not _is_erased_from(parts):
        return
    files = [f for _, r in sorted(books.dropped.items()) for f in r.files]
    lost = next((f for f in files if parts.store.size(f.path) != f.bytes), files[0] if files else None)
    raise StoreError(
        f"{lost.path if lost else 'a file'}: missing or altered, and what it was made of was erased in part, so it "
        "cannot be made again; restore it from a copy"
    )


def _is_erased_from(parts: Parts) -> bool:
    """Return whether something was erased from what is published."""
    newest = read_newest(parts.store)
    return newest is not None and bool(newest.tombstones)


def _mend(session: Session, books: Books, dropped: Mapping[str, Receipt]) -> None:
    dropped = _without_images_again(session.parts, books, dropped)
    if rewritten := sorted(n for n, r in dropped.items() if r.unit.get("erased")):
        raise StoreError(
            f"{dropped[rewritten[0]].files[0].path}: missing or altered, and what it was made of was erased, so it "
            "cannot be made again; restore it from a copy"
        )
    check_devices(session, books)
    for stage in (Stage.ENROL.value, "enrolled", Stage.MAKE.value):
        mine = [r for _, r in sorted(dropped.items()) if r.unit["stage"] == stage]
        if stage == "enrolled":
            for receipt in sorted(mine, key=lambda r: r.unit["generation"]):
                books.add(reclose(session, books, receipt))
        elif mine:
            work(session, books, [Unit.from_dict(r.unit) for r in mine], "mend")
        for receipt in mine:
            if receipt.name in books.known:
                _require_same(receipt, books)
                books.settle(receipt.name)


def _without_images_again(parts: Parts, books: Books, dropped: Mapping[str, Receipt]) -> Mapping[str, Receipt]:
    """Make images again from the rows beside them where somebody was erased; return what that does not mend."""
    if not _is_erased_from(parts):
        return dropped
    if any(r.unit["stage"] == "enrolled" for r in dropped.values()):
        # images follow from vectors, which are looked for first
        return dropped
    left = dict(dropped)
    for name, receipt in dropped.items():
        if receipt.unit["stage"] != Stage.MAKE.value:
            continue
        paths = enrolled_paths(parts.store, int(receipt.unit["generation"]) + 1)
        enrolled = {i.ordinal: i for path in paths for i in parts.segments.read_identities(parts.store, path)[0]}
        again = images_again(parts, receipt, enrolled)
        if again is not None:
            commit(parts, again)
            books.add(again)
            books.settle(name)
            del left[name]
    return left


def check_devices(session: Session, books: Books) -> None:
    """Refuse workers of another device kind than the dataset's: its digest promise would be void."""
    if session.parts.recipe.compute.mixed_devices:
        return
    here = session.executor.device_kinds()
    # the driver closes enrolment, and computes no sample
    there = {str(r.run.get("device_kind")) for r in books.known.values() if r.unit["stage"] != "enrolled"}
    if len(here | there) > 1:
        raise PlanMismatchError(
            f"workers of different device kinds: {'; '.join(sorted(here | there))}; bytes are equal within one kind "
            "only; run on one kind, or set compute.mixed_devices: true, which withdraws the digest promise"
        )


def missing_receipts(books: Books, published: Manifest) -> list[str]:
    """Return the receipts without which a version cannot be told: neither standing nor taken back.

    Each of its segments has one, and so has the closing of each generation's enrolment.
    """
    stand = books.known.keys() | books.dropped.keys()
    segments = {f.path.split("/")[1].rpartition(".")[0] for f in published.files if f.path.startswith("segments/")}
    closed = {enrolled_receipt_name(g) for g in range(published.generation + 1)}
    return sorted((segments | closed) - stand)


def require_undamaged(books: Books, published: Manifest | None) -> None:
    """Refuse to tell figures of a dataset that lacks something, where nothing is mended.

    Raises:
        StoreError: naming the first.
    """
    harmed = [*books.damaged(), *(missing_receipts(books, published) if published else [])]
    if harmed:
        raise StoreError(
            f"{books.store.uri}: {len(harmed)} units are missing, altered or without a receipt ({harmed[0]}); "
            "`facemint verify` names the files, and running generate makes them again: plan after that"
        )


def require_receipts(books: Books, published: Manifest, *, unfinished: int) -> None:
    """Refuse to go on without receipts that no plan can bring back.

    Make units of the generation `unfinished` are planned again, so theirs may be missing.

    Raises:
        StoreError: naming the first.
    """
    again = f"{Stage.MAKE.value}-g{unfinished}-"
    gone = [name for name in missing_receipts(books, published) if not name.startswith(again)]
    if gone:
        raise StoreError(
            f"receipts/{gone[0]}.json: missing, and version {published.version} stands on it "
            f"({len(gone)} such receipts); restore receipts/ from a copy"
        )


def _require_same(before: Receipt, books: Books) -> None:
    after = books.known.get(before.name)
    if after is None:
        return
    if not same_content(after, before):
        # its note stays, so no later run takes the other bytes for the published ones
        books.drop(before.name, "made again, it has other bytes")
        raise StoreError(
            f"{before.path}: made again, its unit came out with other bytes than before; restore "
            f"{' and '.join(f.path for f in before.files)} from a copy, or run on the device kind it was made on "
            f"({before.run.get('device_kind')}); where somebody was erased since, a copy alone helps"
        )
