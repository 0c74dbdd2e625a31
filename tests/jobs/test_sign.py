"""`facemint sign`: signatures that hold, that break with any byte, and keys that are seen nowhere."""

from __future__ import annotations

import datetime as dt
import io
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from jobs import wiring
from pipeline.adapters.codec import JpegCodec, source_type
from pipeline.adapters.machine import SystemClock
from pipeline.adapters.segments import Segments
from pipeline.adapters.signing import Signer, check
from pipeline.adapters.stores import LocalStore
from pipeline.domain.errors import StoreError, UserError
from pipeline.domain.manifest import canonical_json
from pipeline.domain.seal import sealed
from pipeline.flow.orphans import find_orphans
from pipeline.flow.verify import verify
from pipeline.flow.versions import read_manifest
from tests.command_line import error_of, facemint
from tests.worlds import mint, sketches

pytest.importorskip("c2pa", reason="the extra facemint[c2pa] is not installed")

PEM = serialization.Encoding.PEM
SIDECAR = "versions/v000001/manifest.c2pa"
WHO = "facemint tests, signing"


class Pair(NamedTuple):
    """A signer and who vouches for it, in PEM."""

    chain: bytes
    key: bytes
    root: bytes


def authority(key: Any = None) -> Pair:
    """Return a signer of a private authority made on the spot; `key` is the signer's, P-256 by default."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), key or ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)

    def certificate(name: str, public: Any, number: int, *, ca: bool) -> Any:
        subject, issuer = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x")])
            for n in (name, "facemint tests, root")
        )
        usage = x509.KeyUsage(
            digital_signature=not ca, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(number)
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        )
        if not ca:
            made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        return made.sign(root_key, hashes.SHA256()).public_bytes(PEM)

    root = certificate("facemint tests, root", root_key.public_key(), 1, ca=True)
    leaf = certificate(WHO, key.public_key(), 2, ca=False)
    private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Pair(leaf + root, private, root)


@pytest.fixture(scope="module")
def pair() -> Pair:
    """Return a signer."""
    return authority()


@pytest.fixture
def pems(pair: Pair, tmp_path: Path) -> dict[str, str]:
    """Return the files of a signer, and of a root that knows nothing of it."""
    out = {}
    for name, data in {**pair._asdict(), "stranger": authority().root}.items():
        path = tmp_path / f"{name}.pem"
        path.write_bytes(data)
        out[name] = str(path)
    return out


@pytest.fixture(scope="module")
def minted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished dataset in a folder, with an export whose images are files."""
    out = tmp_path_factory.mktemp("sign") / "sketches"
    mint(sketches(exports=[{"use": "imagefolder"}]), LocalStore(out))
    return out


@pytest.fixture
def dataset(minted: Path, tmp_path: Path) -> Path:
    """Return a copy of it for a test to sign."""
    return Path(shutil.copytree(minted, tmp_path / "set"))


def other_purpose(store: LocalStore) -> None:
    """Change a word of the manifest, and seal it anew, as somebody would who knows how."""
    raw = json.loads(store.get("versions/v000001/manifest.json"))
    raw["use"]["purpose"] = "resEarch"
    store.put("versions/v000001/manifest.json", canonical_json(sealed(raw)))


def test_a_manifest_is_signed_and_every_changed_byte_is_found(dataset: Path, pems: dict[str, str]) -> None:
    """Signed, it is valid, and trusted under its root alone; another manifest, or another sidecar, is not."""
    store = LocalStore(dataset)
    digest = read_manifest(store, "v000001").digest
    done = facemint("sign", str(dataset), "--cert", pems["chain"], "--key", pems["key"], "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["signed"], facts["state"], facts["signer"]) == (SIDECAR, "Valid", WHO)
    assert (facts["digest"], facts["ok"]) == (digest, True)
    trusted = facemint("sign", str(dataset), "--check", "--trust", pems["root"], "--json")
    assert (trusted.exit_code, json.loads(trusted.stdout)["state"]) == (0, "Trusted")
    stranger = facemint("sign", str(dataset), "--check", "--trust", pems["stranger"])
    assert stranger.exit_code == 7
    assert "DOES NOT HOLD" in stranger.stdout
    assert "signingCredential.untrusted" in stranger.stdout
    other_purpose(store)
    changed = facemint("sign", str(dataset), "--check")
    assert changed.exit_code == 7
    assert "assertion.dataHash.mismatch" in changed.stdout


def test_a_changed_bit_of_a_signature_changes_nothing_that_it_says(dataset: Path, pair: Pair) -> None:
    """Wherever it lies, the signature does not hold; only in the boxes' own labels and filling may a bit go unseen."""
    store = LocalStore(dataset)
    wiring.sign_on(store, None, Signer(pair.chain, pair.key))
    sidecar = store.get(SIDECAR)
    whole = wiring.signature_on(store, None, pair.root)
    refused = 0
    for place in range(11, len(sidecar), 53):
        store.put(SIDECAR, sidecar[:place] + bytes([sidecar[place] ^ 4]) + sidecar[place + 1 :])
        try:
            found = wiring.signature_on(store, None, pair.root)
        except StoreError:
            refused += 1
            continue
        refused += not found["ok"]
        assert not found["ok"] or found == whole, place
    assert refused > 20


def test_a_signature_that_does_not_hold_is_found_by_deep_verification(dataset: Path, pair: Pair) -> None:
    """Where the manifest was replaced by a whole one, the signature is what tells; a damaged one is named as well."""
    store = LocalStore(dataset)
    wiring.sign_on(store, None, Signer(pair.chain, pair.key))
    assert facemint("verify", str(dataset), "--deep").exit_code == 0
    sidecar = store.get(SIDECAR)
    store.put(SIDECAR, sidecar[:-9])
    cut = facemint("verify", str(dataset), "--deep", "--json")
    assert (cut.exit_code, json.loads(cut.stdout)["damaged"]) == (7, [SIDECAR])
    store.put(SIDECAR, sidecar)
    other_purpose(store)
    found = facemint("verify", str(dataset), "--deep", "--json")
    assert (found.exit_code, json.loads(found.stdout)["damaged"]) == (7, [SIDECAR])
    assert "assertion.dataHash.mismatch" in json.loads(found.stdout)["problems"][0]


def test_signing_leaves_the_dataset_as_it_is(dataset: Path, pair: Pair) -> None:
    """Same digest, no problem, no orphan; a second signature is refused unless it is asked for."""
    store = LocalStore(dataset)
    before = {p: store.get(p) for p in store.list("") if not p.startswith("runs/")}
    signer = Signer(pair.chain, pair.key)
    wiring.sign_on(store, "v000001", signer)
    after = {p: store.get(p) for p in store.list("") if not p.startswith("runs/")}
    assert {p: d for p, d in after.items() if p != SIDECAR} == before
    assert verify(store, Segments(), JpegCodec(), deep=True).problems == ()

    class Later(SystemClock):
        def now_s(self) -> float:
            return super().now_s() + 1e6

    assert not [o for o in find_orphans(store, Later()).files if o.stored.path.startswith("versions/")]
    with pytest.raises(UserError, match=r"manifest.c2pa: stands already; --replace signs anew"):
        wiring.sign_on(store, None, signer)
    wiring.sign_on(store, None, signer, replace=True)
    assert wiring.signature_on(store, None, pair.root)["ok"]


def test_a_key_is_stored_and_shown_nowhere(dataset: Path, pair: Pair, pems: dict[str, str]) -> None:
    """Neither in a file of the dataset, nor in what is printed, nor in how a signer presents itself."""
    done = facemint("sign", str(dataset), "--cert", pems["chain"], "--key", pems["key"])
    secret = b"".join(pair.key.splitlines()[1:-1])
    store = LocalStore(dataset)
    for text in (done.output.encode(), repr(Signer(pair.chain, pair.key)).encode(), *map(store.get, store.list(""))):
        assert secret[:24] not in text
        assert b"PRIVATE KEY" not in text


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "Ed25519", "RSA"],
)
def test_every_kind_of_key_that_c2pa_allows_signs(key: Any) -> None:
    """The algorithm follows from the key."""
    pair = authority(key)
    data = b'{"a":1}\n'
    sidecar = Signer(pair.chain, pair.key).sidecar(data, "a", {"digest": "b"})
    found = check(data, "application/json", sidecar, pair.root)
    assert (found.state, found.claim, found.failures) == ("Trusted", {"digest": "b"}, ())


def test_a_proof_shows_the_signature(dataset: Path, pair: Pair) -> None:
    """As a link of its own, which breaks with the manifest."""
    store = LocalStore(dataset)
    wiring.sign_on(store, None, Signer(pair.chain, pair.key))
    key = next(iter(Segments().read_audit(store, "make-g0-000000").keys))
    link = next(k for k in wiring.prove_on(store, key)["links"] if k["name"].startswith("signature"))
    assert (link["ok"], link["facts"]["signer"]) == (True, WHO)
    other_purpose(store)
    link = next(k for k in wiring.prove_on(store, key)["links"] if k["name"].startswith("signature"))
    assert not link["ok"]
    assert "dataHash.mismatch" in link["checks"][0]["found"]


def test_exported_images_are_signed_one_by_one(minted: Path, tmp_path: Path, pems: dict[str, str]) -> None:
    """Pixels and XMP stay, each holds under the root, other files are copied, and a second call has nothing to do."""
    source, out = minted / "exports" / "v000001" / "imagefolder", tmp_path / "signed"
    pictures = sorted(source.rglob("*.jpg"))
    call = ("sign", "--images", str(source), "--out", str(out), "--cert", pems["chain"], "--key", pems["key"], "--json")
    facts = json.loads(facemint(*call).stdout)
    assert facts["signed"] == len(pictures) > 0
    for path in pictures:
        before, after = path.read_bytes(), (out / path.relative_to(source)).read_bytes()
        assert np.array_equal(JpegCodec().decode(before), JpegCodec().decode(after))
        assert source_type(after) == source_type(before) is not None
        assert len(after) - len(before) < 4_000
        assert check(after, "image/jpeg", None, Path(pems["root"]).read_bytes()).state == "Trusted"
        changed = after[:-40] + bytes([after[-40] ^ 1]) + after[-39:]
        assert check(changed, "image/jpeg").state == "Invalid"
    others = {p.relative_to(source) for p in source.rglob("*") if p.is_file() and p.suffix != ".jpg"}
    there = {p.relative_to(out) for p in out.rglob("*") if p.is_file() and p.suffix != ".jpg"}
    assert others - there == {Path("manifest.json")}
    again = json.loads(facemint(*call).stdout)
    assert (again["signed"], again["copied"]) == (0, 0)


def test_what_does_not_say_that_it_was_generated_is_not_signed_as_such(tmp_path: Path, pems: dict[str, str]) -> None:
    """A photograph among the images ends it, by name."""
    (tmp_path / "in").mkdir()
    out = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(out, "JPEG")
    (tmp_path / "in" / "photo.jpg").write_bytes(out.getvalue())
    signing = ("--cert", pems["chain"], "--key", pems["key"])
    said = str(error_of("sign", "--images", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *signing))
    assert "photo.jpg: does not say that it was generated" in said


def test_mistakes_are_answered_in_one_line(dataset: Path, pair: Pair, pems: dict[str, str], tmp_path: Path) -> None:
    """What was got, and what to do."""
    encrypted = tmp_path / "encrypted.pem"
    key = serialization.load_pem_private_key(pair.key, None)
    lock = serialization.BestAvailableEncryption(b"secret")
    encrypted.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, lock))
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("no picture")
    other = tmp_path / "other.pem"
    other.write_bytes(authority().key)
    here, cert = str(dataset), ("--cert", pems["chain"])
    for arguments, said in (
        ((here,), "signing needs --cert"),
        ((here, *cert, "--key", pems["chain"]), "--key: holds no private key in PEM"),
        ((here, "--cert", pems["key"], "--key", pems["key"]), "--cert: holds no certificate in PEM"),
        ((here, *cert, "--key", str(other)), "--key: is not the key of the first certificate"),
        ((here, *cert, "--key", str(encrypted)), "--key: is encrypted"),
        ((here, *cert, "--key", str(tmp_path / "none")), "cannot be read (No such file or directory)"),
        ((here, *cert, "--key", pems["key"], "--version", "v000009"), "no version v000009; versions here: v000001"),
        ((here, "--check"), "not signed; sign it with"),
        ((here, "--out", "x"), "--out: goes with --images"),
        ((), "give either the URI"),
        ((here, "--images", "x"), "give either the URI"),
        (("--images", here), "--images: needs --out"),
        (("--images", here, "--check"), "--check: says whether the manifest"),
        (
            ("--images", here, "--out", f"{here}/signed", *cert, "--key", pems["key"]),
            "lies in the folder of the images",
        ),
        (("--images", str(tmp_path / "no"), "--out", "x", *cert, "--key", pems["key"]), "no folder is there"),
        ((str(tmp_path / "no"), *cert, "--key", pems["key"]), "no dataset here"),
        (("--images", str(tmp_path / "words"), "--out", str(tmp_path / "w"), *cert, "--key", pems["key"]), "no JPEG"),
    ):
        assert said in str(error_of("sign", *arguments)), arguments
    assert not (tmp_path / "no").exists()
