"""S3 that loses replies, throttles, stalls, refuses and forgets: each fault, and exactly what comes of it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from pipeline.adapters.stores import S3Store, open_store, s3
from pipeline.adapters.stores.trouble import Patience
from pipeline.domain.errors import InterruptedRunError, OutputError, RetryableStoreError, StoreError
from pipeline.domain.ports import Store
from tests.contracts.store_contract import AgainstMemory
from tests.s3 import server
from tests.s3.proxy import (
    Answer,
    Fault,
    Forward,
    Proxy,
    Request,
    cut_body,
    done_then,
    lost_reply,
    lost_request,
    refusal,
    unconditionally,
    without_condition,
    without_metadata,
)
from tests.s3.stores import store_at

QUICK = Patience(tries=5, first_wait_s=0.01, longest_wait_s=0.04, total_s=20.0, connect_s=5.0, read_s=10.0)
HASTY = replace(QUICK, tries=3, read_s=0.8)
STALL_s = 60.0
ALWAYS = float("inf")


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """Return a proxy before the S3 server."""
    with Proxy(server.running()) as proxy:
        yield proxy


@pytest.fixture
def bucket(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return a new bucket, with the environment that leads to it through the proxy."""
    server.use(monkeypatch, proxy.url)
    proxy.forget()
    yield server.running().bucket()
    proxy.forget()


@pytest.fixture
def store(bucket: str, proxy: Proxy) -> S3Store:
    """Return a store whose opening has been forgotten by the proxy."""
    store = store_at(f"s3://{bucket}/set", QUICK)
    proxy.forget()
    return store


def standing(store: S3Store, path: str) -> bytes | None:
    """Return what lies at a path, asked around store and proxy."""
    bucket, _, root = store.uri.removeprefix("s3://").partition("/")
    return server.running().peek(bucket, f"{root}/{path}")


def plant(store: S3Store, path: str, data: bytes) -> None:
    """Put something at a path, around store and proxy."""
    bucket, _, root = store.uri.removeprefix("s3://").partition("/")
    server.running().plant(bucket, f"{root}/{path}", data)


# --------------------------------------------------------------------------------------------------- create if absent


@pytest.mark.parametrize("fault", [lost_reply, done_then(500, "InternalError"), done_then(503, "SlowDown")])
def test_a_lost_reply_is_still_ours(store: S3Store, proxy: Proxy, fault: Fault) -> None:
    """An object that was stored while its answer was lost counts as created by that call."""
    proxy.plan(fault, "PUT", "receipts/a")
    assert store.put_if_absent("receipts/a", b"mine") is True
    assert standing(store, "receipts/a") == b"mine"
    assert proxy.asked("PUT", "receipts/a") == 2


def test_a_lost_reply_to_the_loser(store: S3Store, proxy: Proxy) -> None:
    """Who lost stays the loser when the answer is lost, even with the very bytes of the winner."""
    plant(store, "receipts/a", b"same")
    proxy.plan(lost_reply, "PUT", "receipts/a", times=2)
    assert store.put_if_absent("receipts/a", b"same") is False


def test_somebody_else_is_quicker_than_the_second_try(store: S3Store, proxy: Proxy) -> None:
    """A request that never arrived and was overtaken meanwhile has lost."""

    def overtaken(request: Request, forward: Forward) -> None:
        plant(store, "receipts/a", b"theirs")

    proxy.plan(overtaken, "PUT", "receipts/a")
    assert store.put_if_absent("receipts/a", b"mine") is False
    assert standing(store, "receipts/a") == b"theirs"


def test_a_refusal_that_names_no_condition(store: S3Store, proxy: Proxy) -> None:
    """A bare 412 is read like one that says which condition failed: lost, or a lost reply of ours."""
    proxy.plan(without_condition, "PUT", "receipts/", times=ALWAYS)
    assert store.put_if_absent("receipts/a", b"first") is True
    assert store.put_if_absent("receipts/a", b"second") is False
    proxy.forget()
    proxy.plan(lost_reply, "PUT", "receipts/b")
    proxy.plan(without_condition, "PUT", "receipts/b", times=ALWAYS)
    assert store.put_if_absent("receipts/b", b"mine") is True
    assert (standing(store, "receipts/a"), standing(store, "receipts/b")) == (b"first", b"mine")


@pytest.mark.parametrize("times", [1, 2])
def test_conflicts_are_asked_again(store: S3Store, proxy: Proxy, times: int) -> None:
    """A 409, by which a store says that another writer is at it, is no answer yet."""
    proxy.plan(refusal(409, "ConditionalRequestConflict"), "PUT", "receipts/a", times)
    assert store.put_if_absent("receipts/a", b"mine") is True
    assert proxy.asked("PUT", "receipts/a") == times + 1
    proxy.plan(refusal(409, "ConditionalRequestConflict"), "PUT", "receipts/a", times)
    assert store.put_if_absent("receipts/a", b"other") is False
    assert standing(store, "receipts/a") == b"mine"


def test_conflicts_without_end(store: S3Store, proxy: Proxy) -> None:
    """Patience ends; then nothing was created, and the error's type says that it may be tried again."""
    proxy.plan(refusal(409, "ConditionalRequestConflict"), "PUT", "receipts/a", ALWAYS)
    with pytest.raises(RetryableStoreError, match=r"cannot create receipts/a \(ConditionalRequestConflict, HTTP 409\)"):
        store.put_if_absent("receipts/a", b"mine")
    assert proxy.asked("PUT", "receipts/a") == QUICK.tries
    assert standing(store, "receipts/a") is None


def test_what_stood_in_the_way_was_removed(store: S3Store, proxy: Proxy) -> None:
    """An object that refuses the creation and is gone when looked at does not count."""
    proxy.plan(refusal(412, "PreconditionFailed"), "PUT", "receipts/a")
    assert store.put_if_absent("receipts/a", b"mine") is True
    assert standing(store, "receipts/a") == b"mine"


def test_a_store_that_keeps_no_metadata(bucket: str, proxy: Proxy) -> None:
    """Where an object cannot tell who wrote it, equal bytes count as ours and others as theirs."""
    proxy.plan(without_metadata, times=ALWAYS)
    store = S3Store(f"s3://{bucket}/set", patience=QUICK)
    assert store.exclusive
    proxy.forget()
    proxy.plan(lost_reply, "PUT", "lease")
    assert store.put_if_absent("lease", b"run 1") is True
    proxy.plan(without_metadata, times=ALWAYS)
    plant(store, "taken", b"run 2")
    assert store.put_if_absent("taken", b"run 1") is False


def test_large_things_are_not_created_conditionally(store: S3Store) -> None:
    """What is too large for one conditional request is refused before any byte is sent."""
    with pytest.raises(ValueError, match="created if absent are at most"):
        store.put_if_absent("a", bytes((64 << 20) + 1))


# ------------------------------------------------------------------------------------------------- all other requests

EVERY_VERB: list[tuple[str, Callable[[S3Store], object], object]] = [
    ("GET", lambda s: s.get("d/x"), b"0123456789"),
    ("GET", lambda s: s.get_range("d/x", 2, 3), b"234"),
    ("GET", lambda s: s.get_many(["d/x", "none"]), {"d/x": b"0123456789"}),
    ("GET", lambda s: s.list("d/"), ["d/x"]),
    ("HEAD", lambda s: s.size("d/x"), 10),
    ("PUT", lambda s: s.put("d/y", b"new"), None),
    ("DELETE", lambda s: s.delete("d/x"), None),
]
PASSING: list[Fault] = [
    lost_request,
    lost_reply,
    refusal(500, "InternalError"),
    refusal(503, "SlowDown"),
    cut_body(),
]


@pytest.mark.parametrize("fault", PASSING, ids=["request", "reply", "500", "503", "cut"])
def test_passing_faults_pass(store: S3Store, proxy: Proxy, fault: Fault) -> None:
    """A burst of faults changes no answer, whatever was asked."""
    for method, ask, answer in EVERY_VERB:
        server.running().ask("DELETE", f"/{store.uri.removeprefix('s3://')}/d/y")
        plant(store, "d/x", b"0123456789")
        proxy.forget()
        proxy.plan(fault, method, times=2)
        assert ask(store) == answer
        assert standing(store, "d/y") == (b"new" if method == "PUT" else None)
    assert standing(store, "d/x") is None


def test_patience_ends(store: S3Store, proxy: Proxy) -> None:
    """A store that never answers well ends in one line: whose, which verb, which path, why, and what to do."""
    plant(store, "d/x", b"0123456789")
    proxy.plan(refusal(503, "ServiceUnavailable"), times=ALWAYS)
    for method, ask, _ in EVERY_VERB:
        proxy.seen.clear()
        with pytest.raises(
            RetryableStoreError, match=r"s3://.*/set: cannot \w+.*HTTP 503.*may succeed later"
        ) as caught:
            ask(store)
        assert "\n" not in str(caught.value)
        assert proxy.asked(method) in (QUICK.tries, QUICK.tries + 2)


def test_slow_bodies(bucket: str, proxy: Proxy) -> None:
    """A body that stops coming is asked for again; one that always stops ends the call within the known bound."""
    store = S3Store(f"s3://{bucket}/set", patience=HASTY)
    plant(store, "d/x", b"0123456789")
    for method, ask, answer in EVERY_VERB[:4]:
        proxy.plan(cut_body(stall_s=STALL_s), method)
        assert ask(store) == answer
    proxy.plan(cut_body(stall_s=STALL_s), "GET", times=ALWAYS)
    began_s = time.monotonic()
    with pytest.raises(RetryableStoreError, match="cannot read d/x"):
        store.get("d/x")
    # a few seconds, and none of the bodies was waited for to its end
    assert time.monotonic() - began_s < STALL_s / 2
    assert proxy.asked("GET", "d/x") >= HASTY.tries


def test_a_wish_to_stop_is_no_fault_of_the_store(store: S3Store, proxy: Proxy) -> None:
    """A signal that ends the run while a request waits ends it at once, as what it is."""

    def stop(signum: int, frame: object) -> None:
        raise InterruptedRunError(signum)

    plant(store, "d/x", b"0123456789")
    proxy.plan(cut_body(stall_s=STALL_s), "GET")
    handler = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(InterruptedRunError):
            store.get("d/x")
    finally:
        signal.signal(signal.SIGALRM, handler)


def test_nobody_listens(bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong endpoint is found at once, in one line that repeats neither it nor the password in it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://somebody:PASSWORD@127.0.0.1:9")
    with pytest.raises(RetryableStoreError, match="cannot create runs/") as caught:
        S3Store(f"s3://{bucket}/set", patience=QUICK)
    assert "PASSWORD" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("status", "code"), [(507, "InsufficientStorage"), (403, "QuotaExceeded"), (400, "XMinioStorageFull")]
)
def test_a_full_bucket(store: S3Store, proxy: Proxy, tmp_path: Path, status: int, code: str) -> None:
    """A full bucket is said to be full, at once, and holds what it held."""
    source = tmp_path / "source"
    source.write_bytes(b"new")
    store.put("a", b"old")
    proxy.forget()
    proxy.plan(refusal(status, code), "PUT", times=ALWAYS)
    for write in (
        lambda: store.put("a", b"new"),
        lambda: store.put_file("a", source),
        lambda: store.put_if_absent("b", b"new"),
    ):
        with pytest.raises(StoreError, match=rf"{code}, HTTP {status}\); make room there") as caught:
            write()
        assert not caught.value.retryable
    assert proxy.asked("PUT") == 3
    assert store.get("a") == b"old"
    assert store.list("") == ["a"]


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
def test_access_denied(store: S3Store, proxy: Proxy, code: str) -> None:
    """Missing rights are the user's to mend: said at once, with what they must allow."""
    proxy.plan(refusal(403, code), times=ALWAYS)
    for _, ask, _ in EVERY_VERB:
        with pytest.raises(OutputError, match=r"HTTP 403.*credentials in the environment must allow"):
            ask(store)
    with pytest.raises(OutputError, match="credentials in the environment"):
        store.put_if_absent("a", b"x")
    assert len(proxy.seen) == len(EVERY_VERB) + 3, "two of get_many, then one alone"


def test_without_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials at all is the same mistake, found when the store is opened."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(OutputError, match=r"\(NoCredentialsError\); the credentials in the environment"):
        S3Store(f"s3://{bucket}/set", patience=QUICK)


def test_no_such_bucket(bucket: str) -> None:
    """A bucket that does not exist is found when the store is opened, or at the first listing of a reader."""
    with pytest.raises(OutputError, match=r"s3://absent-here/set: .*NoSuchBucket.*create it, or correct the address"):
        S3Store("s3://absent-here/set", patience=QUICK)
    reader = S3Store("s3://absent-here/set", patience=QUICK, writable=False)
    with pytest.raises(OutputError, match="NoSuchBucket"):
        reader.list("")


def test_a_server_that_answers_something_unknown(store: S3Store, proxy: Proxy) -> None:
    """An answer that means nothing to us is an error that shows code and status, not the server's words."""
    proxy.plan(refusal(418, "key=AKIA... secret"), "GET", times=ALWAYS)
    with pytest.raises(StoreError, match=r"cannot read a \(HTTP 418\); check the store") as caught:
        store.get("a")
    assert "AKIA" not in str(caught.value)


class UnderFaults(AgainstMemory):
    """Random calls beside the model while random requests are lost, cut, throttled or answered in vain."""

    proxy: ClassVar[Proxy]

    def fresh(self, folder: Path) -> Store:
        """Return a store in a new bucket, opened in peace."""
        self.proxy.forget()
        return store_at(f"s3://{server.running().bucket()}/set", QUICK)

    @rule(
        fault=st.sampled_from([*PASSING, done_then(500, "InternalError"), without_condition]),
        method=st.sampled_from(["GET", "HEAD", "PUT", "DELETE"]),
        times=st.integers(1, 2),
    )
    def trouble(self, fault: Fault, method: str, times: int) -> None:
        """Plan a fault for the next requests of a method."""
        self.proxy.plan(fault, method, times=times)

    def teardown(self) -> None:
        """Look for what is left over, in peace."""
        self.proxy.forget()
        super().teardown()


class TestUnderFaults(UnderFaults.TestCase):
    """No passing fault changes any answer."""

    settings = settings(
        max_examples=5,
        stateful_step_count=16,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )

    @pytest.fixture(autouse=True)
    def _through_the_proxy(self, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
        server.use(monkeypatch, proxy.url)
        UnderFaults.proxy = proxy


# ------------------------------------------------------------------------------------------------------------- probing


def test_a_reader_writes_nothing(bucket: str, proxy: Proxy) -> None:
    """Opened for reading, a store is not probed and says that it keeps nobody apart."""
    reader = open_store(f"s3://{bucket}/set", writable=False)
    assert reader.list("") == []
    assert reader.exclusive is False
    assert proxy.asked("PUT") == 0


def test_the_probe_leaves_nothing(bucket: str, proxy: Proxy) -> None:
    """Opening for writing creates, creates again, and removes."""
    assert S3Store(f"s3://{bucket}/set", patience=QUICK).exclusive is True
    assert (proxy.asked("PUT"), proxy.asked("DELETE")) == (2, 1)
    assert server.running().keys(bucket) == []


def test_a_probe_that_was_killed_is_a_leftover(store: S3Store) -> None:
    """A probe object that nobody removed is not listed, is named as a leftover, and goes with the others."""
    plant(store, "runs/.tmp-1", b"1")
    assert store.list("") == []
    assert store.leftovers(time.time() - 60) == []
    assert store.leftovers(time.time() + 60) == ["runs/.tmp-1"]
    assert store.remove_leftovers(time.time() + 60) == 1
    assert standing(store, "runs/.tmp-1") is None


@pytest.mark.parametrize("fault", [unconditionally, refusal(501, "NotImplemented")], ids=["ignored", "refused"])
def test_conditions_that_are_not_honoured(
    bucket: str, proxy: Proxy, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    """A store that lets two writers create one object is found out, said to be one, and used all the same."""

    def only_conditional(request: Request, forward: Forward) -> Answer | None:
        conditional = "if-none-match" in {k.lower() for k in request.headers}
        return fault(request, forward) if conditional else forward(request)

    proxy.plan(only_conditional, "PUT", times=ALWAYS)
    with caplog.at_level(logging.WARNING, logger="facemint"):
        store = S3Store(f"s3://{bucket}/set", patience=QUICK)
        S3Store(f"s3://{bucket}/set", patience=QUICK)
    assert store.exclusive is False
    (said,) = caplog.messages
    assert said.startswith(f"s3://{bucket}/set: this store lets two writers create one object; only the lease keeps")
    assert store.put_if_absent("a", b"first") is True
    assert store.put_if_absent("a", b"second") is False
    assert standing(store, "a") == b"first"
    assert server.running().keys(bucket) == ["set/a"]


def test_a_probe_whose_replies_are_lost(bucket: str, proxy: Proxy) -> None:
    """Faults while probing do not make a good store look bad."""
    for fault in (lost_reply, refusal(503, "SlowDown"), lost_reply):
        proxy.plan(fault, "PUT")
    assert S3Store(f"s3://{bucket}/set", patience=QUICK).exclusive is True
    assert server.running().keys(bucket) == []


# -------------------------------------------------------------------------------------------------------- large files


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that goes up in three parts of the smallest size that S3 takes."""
    monkeypatch.setattr(s3, "SMALL_bytes", 6 << 20)
    monkeypatch.setattr(s3, "PART_bytes", 5 << 20)
    path = tmp_path / "large"
    path.write_bytes(os.urandom((11 << 20) + 7))
    return path


Send = Callable[[S3Store, Path], None]


@pytest.fixture(params=["a file", "pieces"])
def send(request: pytest.FixtureRequest) -> Send:
    """Return what stores a large file: as a whole, or piece by piece as it would grow."""

    def in_pieces(store: S3Store, large: Path) -> None:
        with store.writing("segments/x.tar", about_bytes=large.stat().st_size) as sink, large.open("rb") as file:
            while piece := file.read(1 << 20):
                sink.write(piece)

    return in_pieces if request.param == "pieces" else lambda store, large: store.put_file("segments/x.tar", large)


def test_large_files_go_up_in_parts(store: S3Store, proxy: Proxy, large: Path, send: Send) -> None:
    """A file beyond the size of one request arrives whole, with lost and throttled parts sent again."""
    for fault in (lost_reply, refusal(503, "SlowDown"), lost_request):
        proxy.plan(fault, "PUT", "partNumber")
    send(store, large)
    assert standing(store, "segments/x.tar") == large.read_bytes()
    assert proxy.asked("PUT", "partNumber") == 6
    assert store.leftovers(time.time() + 60) == []


@pytest.mark.parametrize("fault", [lost_reply, refusal(500, "InternalError"), refusal(200, "InternalError")])
def test_the_last_reply_of_an_upload_is_lost(
    store: S3Store, proxy: Proxy, large: Path, send: Send, fault: Fault
) -> None:
    """An upload whose completion was done, failed or failed in a 200 is completed once."""
    proxy.plan(fault, "POST", "uploadId=")
    send(store, large)
    assert standing(store, "segments/x.tar") == large.read_bytes()
    assert store.leftovers(time.time() + 60) == []


def test_a_completion_that_is_not_remembered(store: S3Store, proxy: Proxy, large: Path, send: Send) -> None:
    """A store that forgets an upload once it is completed is asked for the object instead."""
    proxy.plan(lost_reply, "POST", "uploadId=")
    proxy.plan(refusal(404, "NoSuchUpload"), "POST", "uploadId=", ALWAYS)
    send(store, large)
    assert standing(store, "segments/x.tar") == large.read_bytes()


def test_an_upload_that_was_swept_away(store: S3Store, proxy: Proxy, large: Path, send: Send) -> None:
    """An upload that somebody removed while it went on is an error that says so; what stood there stands."""
    store.put("segments/x.tar", b"old")
    for method in ("POST", "PUT"):
        proxy.forget()
        proxy.plan(refusal(404, "NoSuchUpload"), method, "uploadId=", ALWAYS)
        with pytest.raises(StoreError, match="the upload was removed while it went on"):
            send(store, large)
    assert standing(store, "segments/x.tar") == b"old"


@pytest.mark.parametrize("where", [("PUT", "partNumber=2"), ("POST", "uploadId=")], ids=["part", "completion"])
def test_failed_uploads_are_aborted(
    store: S3Store, proxy: Proxy, large: Path, send: Send, where: tuple[str, str]
) -> None:
    """What fails half-way shows nothing and leaves no parts that cost money."""
    proxy.plan(refusal(507, "InsufficientStorage"), *where, ALWAYS)
    with pytest.raises(StoreError, match="make room there"):
        send(store, large)
    assert proxy.asked("DELETE", "uploadId=") == 1
    assert store.leftovers(time.time() + 60) == []
    assert store.list("") == []


def test_an_error_while_a_file_grows_aborts_its_upload(store: S3Store, proxy: Proxy, large: Path) -> None:
    """Parts that went up already go, and what stood there stands."""
    store.put("segments/x.tar", b"old")
    with pytest.raises(KeyError), store.writing("segments/x.tar") as sink:  # noqa: PT012
        sink.write(large.read_bytes())
        raise KeyError
    assert proxy.asked("POST", "uploads") == 1
    assert proxy.asked("DELETE", "uploadId=") == 1
    assert store.leftovers(time.time() + 60) == []
    assert standing(store, "segments/x.tar") == b"old"


def test_more_parts_than_a_store_takes_is_an_error(
    store: S3Store, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file far larger than announced ends with what to do; announced, its parts are larger."""
    monkeypatch.setattr(s3, "MOST_PARTS", 2)
    with pytest.raises(StoreError, match="ask for smaller shards"), store.writing("segments/x.tar") as sink:
        sink.write(large.read_bytes())
    assert store.leftovers(time.time() + 60) == []
    with store.writing("segments/x.tar", about_bytes=11 << 20) as sink:
        sink.write(large.read_bytes())
    assert standing(store, "segments/x.tar") == large.read_bytes()


def test_ranges_are_fetched_in_few_requests(store: S3Store, proxy: Proxy) -> None:
    """Near ranges come with one request, far ones with one each; what failed on the way is asked again alone."""
    data = os.urandom(1_000_000)
    plant(store, "segments/x.tar", data)
    near, far = [("segments/x.tar", n * 1000, 900) for n in range(20)], [("segments/x.tar", 900_000, 10)]
    for fault, requests in ((None, 2), (refusal(503, "SlowDown"), None)):
        proxy.forget()
        if fault is not None:
            proxy.plan(fault, "GET", "segments/x.tar", 2)
        found = store.get_ranges([*far, *near])
        assert list(found) == [data[o : o + n] for _, o, n in (*far, *near)]
        assert requests is None or proxy.asked("GET", "segments/x.tar") == requests


def test_uploads_of_killed_writers_are_leftovers(store: S3Store, bucket: str) -> None:
    """An upload that nobody ends is named below this store's prefix only, aborted on request, and kept while young."""
    for key in ("set/segments/x.tar", "elsewhere/x"):
        assert server.running().ask("POST", f"/{bucket}/{key}?uploads")[0] == 200
    (name,) = store.leftovers(time.time() + 60)
    assert name.startswith("segments/x.tar (upload ")
    assert store.leftovers(0.0) == []
    assert store.remove_leftovers(0.0) == 0
    assert store.remove_leftovers(time.time() + 60) == 1
    assert server.running().uploads(bucket) == ["elsewhere/x"]


# ------------------------------------------------------------------------------------------- pages, prefixes, threads


def test_listings_of_many_pages(bucket: str, store: S3Store) -> None:
    """A listing longer than one page is whole; names that no path can have are left out."""
    paths = sorted(f"receipts/{n:04}" for n in range(1003))
    threads = [
        threading.Thread(target=lambda part: [plant(store, p, b"") for p in part], args=(paths[k::4],))
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for odd in ("receipts/", "receipts//x", "receipts/.tmp-1"):
        server.running().plant(bucket, f"set/{odd}", b"")
    assert store.list("receipts/") == paths
    assert len(store.entries("")) == 1003


def test_a_bucket_without_a_prefix(bucket: str) -> None:
    """A whole bucket is a store too, and a prefix that begins alike is another store."""
    whole, part = open_store(f"s3://{bucket}/"), open_store(f"S3://{bucket}/set/")
    assert (whole.uri, part.uri) == (f"s3://{bucket}", f"s3://{bucket}/set")
    part.put("a", b"1")
    whole.put("settle/b", b"2")
    assert whole.list("") == ["set/a", "settle/b"]
    assert whole.list("set") == ["set/a", "settle/b"]
    assert part.list("") == ["a"]
    assert whole.get("set/a") == b"1"
