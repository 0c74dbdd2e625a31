"""What every exporter promises, asked of a dataset of the sketch world by a suite that each exporter inherits.

The fixtures `source`, `index`, `about` and `with_twins` are those of `tests/contracts/test_exporter_contract.py`.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from jobs import examine, wiring
from jobs.components import COMPONENTS
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.segments.plain import ParquetTables
from pipeline.adapters.stores import LocalStore, MemoryStore, PrefixedStore
from pipeline.domain.errors import OutputError, StoreError
from pipeline.domain.manifest import IndexRow, sha256_hex
from pipeline.domain.ports import Exporter, ImageFacts, Store
from pipeline.domain.recipe import ExportNode
from pipeline.domain.twins import is_twin, parent_of
from pipeline.flow.exporting import StoredFacts, write_exports
from tests.flow.erasing import DyingAtAnyChange
from tests.flow.test_run import Killed

Found = tuple[str, int, bytes]
"""Key, label and image bytes of one sample, as a reader of the format finds them."""


def files_of(store: Store) -> dict[str, bytes]:
    """Return every file of a store."""
    return {path: store.get(path) for path in store.list("")}


class Recording(MemoryStore):
    """A store that writes down its changes."""

    def __init__(self) -> None:
        """Start without any."""
        super().__init__()
        self.writes: list[str] = []

    def put(self, path: str, data: bytes) -> None:
        """Note and put; files come through here too."""
        self.writes.append(f"put {path}")
        super().put(path, data)

    def delete(self, path: str) -> None:
        """Note where there is something to delete."""
        if self.size(path) is not None:
            self.writes.append(f"delete {path}")
        super().delete(path)


class Told:
    """An exporter that is told the facts of whatever dataset it exports, as every run and verb tells it."""

    def __init__(self, exporter: Exporter) -> None:
        """Keep the exporter."""
        self._exporter, self.kind = exporter, exporter.kind

    @property
    def options(self) -> ExportNode:
        """Return the exporter's."""
        return self._exporter.options

    def export(
        self,
        source: Store,
        index: Sequence[IndexRow],
        target: Store,
        about: Mapping[str, Any],
        facts: ImageFacts | None = None,
    ) -> dict[str, Any]:
        """Export with the dataset's facts."""
        return self._exporter.export(source, index, target, about, facts or StoredFacts(source, Segments()))


class ExporterContract:
    """The promises of the Exporter port."""

    kind: str
    options: dict[str, Any] = {}
    """Small shards, so that there are several."""

    def build(self, **options: Any) -> Exporter:
        """Return an exporter of this kind, as a recipe would build it."""
        model, part = (wiring.load(entry) for entry in COMPONENTS["exports"][self.kind])
        return Told(part(model(use=self.kind, **self.options, **options)))

    @pytest.fixture
    def exporter(self) -> Exporter:
        """Return the exporter under test."""
        return self.build()

    def read(self, target: Store) -> list[Found]:
        """Return every sample in the order of the export, by a reader that is not the product's."""
        raise NotImplementedError

    def test_every_image_once_with_its_label_and_its_bytes(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """Each index row becomes one sample: its label, and the segment's bytes unchanged; labels are dense."""
        target = MemoryStore()
        summary = exporter.export(source, index, target, about)
        wanted = {r.key: (r.label, source.get_range(f"segments/{r.segment}.tar", r.offset, r.length)) for r in index}
        found = self.read(target)
        assert len(found) == len(wanted) == 30
        assert {key: (label, image) for key, label, image in found} == wanted
        assert sorted({label for _, label, _ in found}) == list(range(summary["num_classes"]))
        assert (summary["kind"], summary["num_images"]) == (self.kind, 30)

    def test_bytes_repeat(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any], tmp_path: Path
    ) -> None:
        """Another store, and an index handed in backwards, change no byte."""
        first, second = MemoryStore(), LocalStore(tmp_path)
        exporter.export(source, index, first, about)
        exporter.export(source, index[::-1], second, about)
        assert files_of(first) == files_of(second)

    def test_manifest_describes_the_files(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """The summary is the manifest, and it lists every other file that lies there with its digest and size."""
        target = MemoryStore()
        summary = exporter.export(source, index, target, about | {"balance": ["shape"]})
        assert summary == json.loads(target.get("manifest.json"))
        assert summary["source"] == {name: about[name] for name in ("name", "version", "digest", "seed")}
        listed = {f["path"]: (f["sha256"], f["bytes"]) for f in summary["files"]}
        assert listed == {p: (sha256_hex(d), len(d)) for p, d in files_of(target).items() if p != "manifest.json"}
        assert "30" in target.get("README.md").decode()

    def test_a_rerun_writes_nothing(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """A finished export is recognised: the same summary and no change."""
        target = Recording()
        first = exporter.export(source, index, target, about)
        assert target.writes[-1] == "put manifest.json"
        target.writes.clear()
        assert exporter.export(source, index, target, about) == first
        assert target.writes == []

    @pytest.mark.parametrize("after", [False, True])
    def test_killed_at_any_change_it_ends_in_the_same_bytes(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any], *, after: bool
    ) -> None:
        """Killed before or after every single change and run again, an export is the undisturbed one and no more."""
        undisturbed = MemoryStore()
        exporter.export(source, index, undisturbed, about)
        wanted = files_of(undisturbed)
        for dies_at in range(1, 200):
            store = DyingAtAnyChange(dies_at, after=after)
            try:
                exporter.export(source, index, store, about)
            except Killed:
                exporter.export(source, index, store, about)
                assert files_of(store) == wanted, f"killed at change {dies_at}"
            else:
                break
        assert dies_at > len(wanted)

    def test_what_stands_is_not_written_again(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """Where one file is lost or cut and the manifest with it, that file alone is written, besides the records."""
        target = Recording()
        exporter.export(source, index, target, about)
        whole = files_of(target)
        for path in sorted(set(whole) - {"manifest.json"}):
            for damage in (b"", whole[path][:-1], whole[path][:-1] + bytes([whole[path][-1] ^ 1])):
                MemoryStore.put(target, path, damage)
                MemoryStore.delete(target, "manifest.json")
                target.writes.clear()
                exporter.export(source, index, target, about)
                content = [w for w in target.writes if w.split()[1] not in ("manifest.json", "progress.json")]
                assert content == [f"put {path}"]
                assert files_of(target) == whole

    def test_leftovers_of_an_earlier_export_go(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """A torn manifest, and files that an export of the same dataset with other options left, are cleared away."""
        target = MemoryStore()
        exporter.export(source, index, target, about)
        whole = files_of(target)
        target.put("manifest.json", b'{"kind": ')
        for path in [p for p in whole if p.endswith((".tar", ".parquet", ".jpg"))][:1]:
            stale = path.replace("000000", "000099")
            target.put(stale, b"stale")
        exporter.export(source, index, target, about)
        assert files_of(target) == whole

    def test_an_export_of_another_dataset_is_not_written_over(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """Another dataset digest, finished or not, is refused in one line that names both; nothing changes."""
        target, half = Recording(), DyingAtAnyChange(4, after=True)
        exporter.export(source, index, target, about)
        with pytest.raises(Killed):
            exporter.export(source, index, half, about)
        for store in (target, half):
            before = files_of(store)
            with pytest.raises(
                OutputError, match=rf"{about['digest'][:12]}.*eeeeeeeeeeee.*name another place"
            ) as caught:
                exporter.export(source, index, store, about | {"digest": "e" * 64})
            assert "\n" not in str(caught.value)
            assert files_of(store) == before

    @pytest.mark.parametrize("found", [{"kind": "cartridge"}, {"kind": 5, "source": []}, {"version": "v000001"}])
    def test_a_manifest_of_something_else_is_not_written_over(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any], found: dict[str, Any]
    ) -> None:
        """An export of another kind, or the manifest of a dataset's version, is refused."""
        target = MemoryStore()
        target.put("manifest.json", json.dumps(found).encode())
        with pytest.raises(OutputError, match=r"manifest\.json is of another export"):
            exporter.export(source, index, target, about)

    def test_a_newer_version_of_the_same_content_replaces_it(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """The old manifest goes first and the new one comes last, so that neither describes a mixture."""
        target = Recording()
        exporter.export(source, index, target, about)
        target.writes.clear()
        summary = exporter.export(source, index, target, about | {"version": "v000002"})
        assert summary["source"]["version"] == "v000002"
        assert (target.writes[0], target.writes[-1]) == ("delete manifest.json", "put manifest.json")

    def test_verify_sees_damage(
        self, exporter: Exporter, source: MemoryStore, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """Deep verification of the dataset names the one file of its export in which a byte changed or that is gone."""
        dataset = MemoryStore()
        for path, data in files_of(source).items():
            dataset.put(path, data)
        root = f"exports/v000001/{self.kind}"
        exporter.export(dataset, index, PrefixedStore(dataset, root), about)
        sound = examine.verify(dataset, Segments(), JpegCodec(), deep=True)
        assert sound["damaged"] == []
        paths = [p for p in dataset.list(root) if not p.endswith("manifest.json")]
        for path in (paths[0], paths[-1]):
            data = dataset.get(path)
            dataset.put(path, data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
            assert examine.verify(dataset, Segments(), JpegCodec(), deep=True)["damaged"] == [path]
            dataset.delete(path)
            assert examine.verify(dataset, Segments(), JpegCodec(), deep=False)["damaged"] == [path]
            dataset.put(path, data)

    @pytest.mark.parametrize("shift", [1, -1, 10**9])
    def test_a_wrong_place_in_a_segment_is_an_error(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any], shift: int
    ) -> None:
        """An index that does not fit its segment stops the export, naming the segment; no manifest is written."""
        moved = [replace(index[0], offset=index[0].offset + shift), *index[1:]]
        target = MemoryStore()
        with pytest.raises(StoreError, match=f"segments/{index[0].segment}.tar"):
            exporter.export(source, moved, target, about)
        assert target.size("manifest.json") is None

    def test_it_must_be_told_its_version(self, exporter: Exporter, source: Store, index: list[IndexRow]) -> None:
        """A forgotten seed is an error, not a default order."""
        with pytest.raises(ValueError, match="nothing of digest, seed"):
            exporter.export(source, index, MemoryStore(), {"name": "x", "version": "v000001"})

    def test_an_empty_index_is_one_clear_line(self, exporter: Exporter, source: Store, about: dict[str, Any]) -> None:
        """Nothing to export is said in one line, and nothing is written."""
        target = Recording()
        with pytest.raises(OutputError, match=r"^no image to export; .*$"):
            exporter.export(source, [], target, about)
        assert target.writes == []

    def test_labels_with_gaps_become_dense(self, source: Store, index: list[IndexRow], about: dict[str, Any]) -> None:
        """After an erasure labels run from 0 without a gap, in their order; `labels.parquet` says whose they are."""
        left = [row for row in index if row.label not in (0, 4)]
        target = MemoryStore()
        (summary,) = self.write(self.build(), source, left, target, about)
        assert summary["num_classes"] == 8
        found = {(key, label) for key, label, _ in self.read(target)}
        new = {label: n for n, label in enumerate(sorted({row.label for row in left}))}
        wanted = {(row.key, new[row.label]) for row in left}
        assert found == wanted
        table = pq.read_table(io.BytesIO(target.get("labels.parquet"))).to_pylist()
        assert [(r["label"], r["version_label"]) for r in table] == [(n, label) for label, n in new.items()]
        assert {r["version_label"]: (r["identity"], r["cell"]) for r in table} == {
            row.label: (row.identity, row.cell) for row in left
        }
        assert {r["images"] for r in table} == {3}

    @pytest.mark.parametrize("most", [1, 2, 5])
    def test_max_per_identity(self, source: Store, index: list[IndexRow], about: dict[str, Any], most: int) -> None:
        """No identity has more images than asked for, the same ones each time, and the manifest says how many."""
        kept = []
        for _ in range(2):
            target = MemoryStore()
            (summary,) = self.write(self.build(max_per_identity=most), source, index, target, about)
            kept.append({key: image for key, _, image in self.read(target)})
        assert summary["max_per_identity"] == most
        assert kept[0] == kept[1]
        identity_of = {row.key: row.identity for row in index}
        assert set(Counter(identity_of[key] for key in kept[0]).values()) == {min(most, 3)}
        middle = sorted(row.key for row in index if row.identity == index[0].identity)[1]
        assert most != 1 or middle in kept[0], "one of three is the middle one"

    @pytest.mark.parametrize("twins", [True, False])
    def test_twins(self, with_twins: MemoryStore, *, twins: bool) -> None:
        """Twins come with their images' label, or not at all; with fewer images, only those of the images taken."""
        target = MemoryStore()
        exporter = self.build(twins=twins, max_per_identity=2)
        wiring.export_on(with_twins, exporter, target)
        labels = {key: label for key, label, _ in self.read(target)}
        plain = {key for key in labels if not is_twin(key)}
        assert len(plain) == 20
        assert any(is_twin(key) for key in labels) is twins
        for key in labels.keys() - plain:
            assert labels[key] == labels[str(parent_of(key))]

    @pytest.mark.parametrize("side_px", [32, 48])
    def test_image_size(self, source: Store, index: list[IndexRow], about: dict[str, Any], side_px: int) -> None:
        """Images of the wanted size are copied, others come resized; the card says what was done to their bytes."""
        target = MemoryStore()
        (summary,) = self.write(self.build(image_px=side_px, image_quality=90), source, index, target, about)
        assert (summary["image_px"], summary["image_quality"]) == (side_px, 90)
        images = {key: image for key, _, image in self.read(target)}
        published = {r.key: source.get_range(f"segments/{r.segment}.tar", r.offset, r.length) for r in index}
        assert (images == {key: published[key] for key in images}) is (side_px == 32)
        assert {JpegCodec().decode(image).shape for image in images.values()} == {(side_px, side_px, 3)}
        assert f"{side_px} x {side_px} px" in target.get("README.md").decode()
        assert "JPEG quality 90" in target.get("README.md").decode()

    def write(
        self, exporter: Exporter, source: Store, rows: list[IndexRow], target: Store, about: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Export as runs and verbs do, all in one place."""
        return write_exports(exporter, source, Segments(), ParquetTables(), rows, about, lambda _: target)

    def test_options_are_frozen_and_checked(self) -> None:
        """Unknown options are refused, and options cannot change once a recipe is read."""
        model = wiring.load(COMPONENTS["exports"][self.kind][0])
        with pytest.raises(ValidationError, match="extra_forbidden"):
            model(use=self.kind, shards=3)
        with pytest.raises(ValidationError, match="frozen"):
            model(use=self.kind).use = "other"
