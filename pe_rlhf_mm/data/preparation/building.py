"""A TFDS data set out of published files: without TensorFlow, resumable, and whole or not at all.

What is not finished lies in HOME/.unfinished/NAME/FINGERPRINT, where the same command finds it again; other files, or
another version of them, have another fingerprint. The whole data set appears in HOME by one rename.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool

from pe_rlhf_mm.data.preparation.duplicates import surplus
from pe_rlhf_mm.data.preparation.images import bring_together, link
from pe_rlhf_mm.data.preparation.shards import ROWS, Rows, Tick, array_record, make_shards, tally_of
from pe_rlhf_mm.data.preparation.tally import EXAMPLES, Tally
from pe_rlhf_mm.data.prepared import folder_of, tfds_name
from pe_rlhf_mm.data.published.description import REPORT, SPLITS, VERSION, Kind, Published
from pe_rlhf_mm.data.published.finding import Say
from pe_rlhf_mm.data.published.origin import origin_of
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json, write_json
from pe_rlhf_mm.locks import locked


def prepare(
    published: Published,
    source: str,
    home: Path,
    *,
    skip_bad: bool = False,
    overwrite: bool = False,
    tick: Tick | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Prepares a data set from `source` into `home`; returns its report, which lies beside it as preparation.json.

    Where it was interrupted it goes on, and what is prepared from the same files already stays as it is. Raises
    UserError for files that are not there, bad rows (unless `skip_bad`), a disk without room, a data set prepared from
    other files (unless `overwrite`), and one that another process is preparing.
    """
    origin, folder = origin_of(published, source), folder_of(published.name, home)
    try:
        with _alone(home, published.name) as unfinished:
            aside = unfinished / "replaced"
            _settle(folder, aside)
            if folder.exists() and _same(folder, origin.fingerprint, overwrite):
                return read_json(folder / REPORT)
            work = _of_these_files(unfinished, origin.fingerprint)
            rows = Rows(published, origin.parts(work / "unpacked", say))
            make_shards(rows, work / "shards", skip_bad=skip_bad, tick=tick)
            try:
                if folder.exists():
                    folder.rename(aside)
                about = {"from": origin.place, "fingerprint": origin.fingerprint}
                PublishedBuilder(rows, work / "shards", about, home=home, skip_bad=skip_bad).download_and_prepare(
                    download_dir=work / "downloads"
                )
            finally:
                _settle(folder, aside)
            shutil.rmtree(work)
    except OSError as error:
        said = f"{published.name} cannot be prepared in {home}: {error.strerror or error}."
        raise UserError(f"{said} What is finished is kept: mend that, and give the same command again.") from error
    return read_json(folder / REPORT)


class PublishedBuilder(tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes rows as ArrayRecord files and their images beside them, shard by shard, what `shards` holds not again."""

    VERSION = tfds.core.Version(VERSION)
    url_infos = None  # nothing is downloaded, and looking for a list of it fails without importlib_resources

    def __init__(self, rows: Rows, shards: Path, about: dict[str, Any], *, home: Path, skip_bad: bool = False):
        self.name = tfds_name(rows.published.name)
        self._rows, self._shards, self._about, self._skip_bad = rows, shards, about, skip_bad
        super().__init__(data_dir=home, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        published = self._rows.published
        features = {name: FEATURES[kind]() for name, kind in self._rows.features.items()}
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{published.title}. {published.where_to_get_it}",
            features=tfds.features.FeaturesDict(features),
            license=published.licence,
            disable_shuffling=True,  # rows stay in the order of their files; training shuffles
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        """Makes what is missing, and puts the shards together; TFDS renames the folder when this is over."""
        shards = make_shards(self._rows, self._shards, skip_bad=self._skip_bad)
        tally = Tally()
        for shard in shards:
            tally.add(tally_of(shard))
        pieces = {split: [shard for shard in shards if (shard / f"{split}.npy").is_file()] for split in SPLITS}
        digests = {
            split: [np.load(shard / f"{split}.npy") for shard in found] for split, found in pieces.items() if found
        }
        stays = self._take_surplus({split: np.concatenate(parts) for split, parts in digests.items()}, tally)
        tally.kept = {split: tally.kept[split] for split in SPLITS if tally.kept.get(split)}
        if not tally.kept:
            raise UserError(f"not one of {tally.read:,} rows of {self.name} can be kept: {tally.reasons()}.")
        bring_together(shards, Path(self._data_dir))  # also those of rows that went
        infos = []
        for split, kept in stays.items():
            ends = np.cumsum([len(part) for part in digests[split]])
            files = [shard / f"{split}.array_record" for shard in pieces[split]]
            infos.append(self._split(split, files, np.split(kept, ends[:-1])))
        self.info.set_splits(tfds.core.SplitDict([info for info in infos if info.num_examples]))
        write_json(Path(self._data_dir) / REPORT, self._about | {"lacks": self._rows.lacks} | tally.to_json())

    def _take_surplus(self, digests: Mapping[str, np.ndarray], tally: Tally) -> dict[str, Bool[np.ndarray, "N"]]:
        """Which rows of each split stay; what goes is counted."""
        stays = {split: np.ones(len(rows), bool) for split, rows in digests.items()}
        for split, reasons in surplus(digests).items():
            for reason, gone in reasons.items():
                rows = digests[split]["row"][gone]
                stays[split] &= ~gone
                if len(rows):
                    tally.keep(split, -len(rows))
                    tally.put_aside(reason, [self._rows.where(int(row)) for row in rows[:EXAMPLES]], len(rows))
        return stays

    def _split(self, name: str, files: Sequence[Path], stays: Sequence[Bool[np.ndarray, "N"]]) -> tfds.core.SplitInfo:
        """Puts the files of a split in place, without the rows that go."""
        pieces = [(file, kept) for file, kept in zip(files, stays, strict=True) if kept.any()]
        template = self._get_filename_template(name)
        size = 0
        for index, (file, kept) in enumerate(pieces):
            place = Path(template.sharded_filepath(shard_index=index, num_shards=len(pieces)))
            link(file, place) if kept.all() else _copy_kept(file, place, kept)
            size += place.stat().st_size
        lengths = [int(kept.sum()) for _, kept in pieces]
        return tfds.core.SplitInfo(name=name, shard_lengths=lengths, num_bytes=size, filename_template=template)

    def _log_download_bytes(self) -> None:
        """TFDS would print about a download, and there is none."""

    def _log_download_done(self) -> None:
        """The report says it."""


FEATURES: dict[Kind, Callable[[], Any]] = {
    "text": tfds.features.Text,
    "texts": lambda: tfds.features.Sequence(tfds.features.Text()),
    "int": lambda: tfds.features.Scalar(np.int64),
    "float": lambda: tfds.features.Scalar(np.float32),
    "image": tfds.features.Text,
}


@contextmanager
def _alone(home: Path, name: str) -> Iterator[Path]:
    """The folder of what is not finished, for one process at a time."""
    place = home / ".unfinished"
    place.mkdir(parents=True, exist_ok=True)
    said = f"{name} is being prepared in {home} by another process. Wait until it has ended."
    with locked(place / f"{name}.lock", said):
        for leftover in (home / tfds_name(name)).glob("incomplete.*"):  # TFDS's, of a process that was killed
            shutil.rmtree(leftover)
        (place / name).mkdir(exist_ok=True)
        yield place / name
        if not any((place / name).iterdir()):
            (place / name).rmdir()


def _settle(folder: Path, aside: Path) -> None:
    """Of a data set that was to be replaced: gone where the new one is there, back in its place where it is not."""
    if aside.exists() and folder.exists():
        shutil.rmtree(aside)
    elif aside.exists():
        aside.rename(folder)


def _same(folder: Path, fingerprint: str, overwrite: bool) -> bool:
    """Whether what is prepared already is what was asked for; False where it is to be replaced.

    Raises UserError if it was made from other files and is not to be replaced, or was not made here at all.
    """
    if not (folder / REPORT).is_file():
        raise UserError(f"{folder} was not made by pe-rlhf data prepare, so it stays. Give another folder with --out.")
    report = read_json(folder / REPORT)
    if report["fingerprint"] != fingerprint and not overwrite:
        raise UserError(
            f"{folder} is there already, made from other files ({report['from']}). --overwrite replaces it."
        )
    return not overwrite


def _of_these_files(unfinished: Path, fingerprint: str) -> Path:
    """The folder for what is made from these files; what was made from others is of no use any more."""
    work = unfinished / f"{VERSION}-{ROWS}-{fingerprint}"
    for other in unfinished.iterdir():
        if other != work:
            shutil.rmtree(other)
    work.mkdir(exist_ok=True)
    return work


def _copy_kept(file: Path, place: Path, kept: Bool[np.ndarray, "N"]) -> None:
    """The records that stay, as they are."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(file))
    with array_record(place) as write:
        for index in np.flatnonzero(kept).tolist():
            write(reader.read(index, index + 1)[0])
