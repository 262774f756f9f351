"""Saves of a training, written by Orbax in the background: numbered, whole or not at all, the newest two kept.

NUMBER/       arrays, if the save has any
NUMBER.json   facts about them, and the SHA-256 of each file of the folder

The JSON is written last and at once. What has none is no save, and is removed by the next one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
from jax.tree_util import keystr, tree_flatten_with_path

from pe_rlhf_mm import hosts
from pe_rlhf_mm.checkpoints.sums import first_wrong, sums
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json, write_json

Tree = TypeVar("Tree")
KEPT = 2


class Save(NamedTuple):
    """A save that is whole, and what was said of it."""

    number: int
    facts: dict[str, Any]


class Saves:
    """The saves in a folder, which is made by the first of them. One is written at a time."""

    def __init__(self, folder: Path):
        import orbax.checkpoint as ocp

        self._folder = folder.resolve()  # Orbax wants it from the root
        self._orbax = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._damaged: set[int] = set()
        self._last = hosts.led(lambda: max(self._numbers(), default=0))

    def newest(self) -> tuple[Save | None, list[Path]]:
        """The newest save that is whole; and, of each that is newer, the file that is damaged or gone."""
        return hosts.led(self._newest)

    def _newest(self) -> tuple[Save | None, list[Path]]:
        damaged: list[Path] = []
        for number in self._numbers():
            try:
                said = read_json(self._seal(number))
                wrong = first_wrong(self._arrays(number), said["sums"])
            except (UserError, KeyError, OSError):
                wrong = self._seal(number)
            if wrong is None:
                return Save(number, said["facts"]), damaged
            damaged.append(wrong)
            self._damaged.add(number)
        return None, damaged

    def restore(self, save: Save, like: Tree) -> Tree:
        """The arrays of a save in the tree of `like`, each laid out over devices as there, however it was before.

        Raises UserError if those are not the arrays of such a tree.
        """
        import orbax.checkpoint as ocp

        named, structure = _named(like)
        wanted = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for name, x in named.items()}
        how = ocp.args.PyTreeRestore(item=wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted))
        try:
            found = self._orbax.restore(self._arrays(save.number), args=how)
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{self._arrays(save.number)} is whole, and not what this release trains with: {str(error)[:500]}"
            ) from error
        leaves = [_as_key(found[name], x) for name, x in zip(named, jax.tree.leaves(like), strict=True)]
        return jax.tree.unflatten(structure, leaves)

    def begin(self, facts: Mapping[str, Any], arrays: object = None) -> None:
        """Begins to write a save; when it returns, the arrays may be given away. Waits for the one before it.

        Raises whatever keeps either from being written, and leaves what is whole as it is.
        """
        self.wait()
        self._last += 1
        number = self._last
        self._folder.mkdir(parents=True, exist_ok=True)
        if hosts.first():
            self._sweep()  # a process that was killed may have left something under this number
        if arrays is not None:
            import orbax.checkpoint as ocp

            self._orbax.save(self._arrays(number), args=ocp.args.PyTreeSave(_named(arrays)[0]))
        self._writing = self._thread.submit(self._finish, number, dict(facts))

    @property
    def busy(self) -> bool:
        return self._writing is not None and not self._writing.done()

    def wait(self) -> None:
        """Waits until nothing is being written. Raises what kept it from being written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Ends what writes, when it has written."""
        self._thread.shutdown()
        self._orbax.close()

    def _finish(self, number: int, facts: dict[str, Any]) -> None:
        try:
            self._orbax.wait_until_finished()
            if hosts.first():
                write_json(self._seal(number), {"facts": facts, "sums": sums(self._arrays(number))})
        finally:
            if hosts.first():
                self._sweep()

    def _sweep(self) -> None:
        """Removes all but the newest saves, and what was left by one that came to nothing."""
        kept = {self._seal(number).stem for number in self._numbers()[:KEPT]}
        for path in sorted(self._folder.iterdir(), key=lambda path: path.is_dir()):  # a save ends with its JSON
            if path.name.partition(".")[0] not in kept or path.suffix == ".partial":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _numbers(self) -> list[int]:
        """Of the saves that are there and not known to be damaged, the newest first."""
        there = {int(path.stem) for path in self._folder.glob("[0-9]*.json")}
        return sorted(there - self._damaged, reverse=True)

    def _arrays(self, number: int) -> Path:
        return self._folder / f"{number:06d}"

    def _seal(self, number: int) -> Path:
        return self._folder / f"{number:06d}.json"


def _named(tree: Any) -> tuple[dict[str, jax.Array], Any]:
    """The arrays of a tree by their place in it, and the structure that puts them together again."""
    found, structure = tree_flatten_with_path(tree)
    return {keystr(path, simple=True, separator="."): _plain(leaf) for path, leaf in found}, structure


def _plain(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _as_key(found: jax.Array, like: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(found, impl=jax.random.key_impl(like)) if _is_key(like) else found


def _is_key(leaf: jax.Array) -> bool:
    return bool(jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key))
