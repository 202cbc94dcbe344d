"""All mutants, from a file each for what they edit: every module here has its own `MUTANTS`."""

from __future__ import annotations

import importlib
import pkgutil

from mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = tuple(
    mutant
    for module in pkgutil.iter_modules(__path__, f"{__name__}.")
    for mutant in importlib.import_module(module.name).MUTANTS
)
