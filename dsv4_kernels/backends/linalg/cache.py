"""Triton's cache of compiled kernels, checked: what was lost or damaged is compiled again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from triton.runtime import cache
from triton.runtime.cache import FileCacheManager

from dsv4_kernels.backends.missing import MissingDependency

_DIGESTS = "sha256"  # of each file, beside Triton's own entry in the record of a group


class CheckedCache(FileCacheManager):
    """Files of one compilation. A group of them is all there as it was written, or not at all;
    Triton's own would hand out what is left, and end in a KeyError at every start.

    Raises MissingDependency where there is nowhere to write.
    """

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        with _writable_folder():
            super().__init__(key, override, dump)

    def put(self, data: bytes | str, filename: str, binary: bool = True) -> str:
        with _writable_folder():
            return super().put(data, filename, binary)

    def put_group(self, filename: str, group: dict[str, str]) -> str:
        digests = {name: _digest(path) for name, path in group.items()}
        record = json.dumps({"child_paths": group, _DIGESTS: digests})
        return self.put(record, f"__grp__{filename}", binary=False)

    def get_group(self, filename: str) -> dict[str, str] | None:
        try:
            record = json.loads(Path(self._make_path(f"__grp__{filename}")).read_text())
            if _DIGESTS not in record:
                return super().get_group(filename)  # written by Triton's own
            group = record["child_paths"]
            as_written = all(_digest(group[name]) == sum for name, sum in record[_DIGESTS].items())
        except (OSError, ValueError):
            return None
        return group if as_written else None


def use() -> None:
    """Let Triton use it in this process, unless TRITON_CACHE_MANAGER names another class.

    That variable is Triton's own way to name one, but processes started from here would inherit it.
    """
    cache.__cache_cls = CheckedCache


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@contextlib.contextmanager
def _writable_folder() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        default = f"{os.environ.get('TRITON_HOME', '~')}/.triton/cache"
        folder = os.environ.get("TRITON_CACHE_DIR", "").strip() or default
        reason = error.strerror if isinstance(error, OSError) else error
        raise MissingDependency(
            f"compiled kernels are kept in {folder}, where this process cannot write ({reason}): "
            "set TRITON_CACHE_DIR to a folder where it can"
        ) from error
