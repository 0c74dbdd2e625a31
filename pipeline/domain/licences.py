"""Licences of datasets: what a recipe may state, what it allows, and how the hub and Croissant name it.

Names are those of SPDX (spdx.org/licenses); hub names are those of the Hugging Face documentation, "Licenses". One that
is not listed here is given by its address: nothing is then claimed about what it allows.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

_FREE = (
    "AFL-3.0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0",
    "CC-BY-4.0", "CC-BY-ND-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "CDLA-Permissive-1.0",
    "CDLA-Permissive-2.0", "CDLA-Sharing-1.0", "etalab-2.0", "EUPL-1.2", "ISC", "MIT", "MPL-2.0", "ODbL-1.0",
    "ODC-By-1.0", "PDDL-1.0", "Unlicense", "Zlib",
)  # fmt: skip
_NON_COMMERCIAL = (
    "CC-BY-NC-2.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-3.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-2.0",
    "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0", "PolyForm-Noncommercial-1.0.0",
)  # fmt: skip
_HUB = {"ODbL-1.0": "odbl", "ODC-By-1.0": "odc-by", "PDDL-1.0": "pddl"}
"""Where the hub's name is not the SPDX name in small letters."""
_NOT_ON_HUB = ("EUPL-1.2", "PolyForm-Noncommercial-1.0.0")
_BY_SMALL = {name.lower(): name for name in (*_FREE, *_NON_COMMERCIAL)}
_ADDRESS = re.compile(r"https?://[^\s/]+\.[^\s/]+(?:/\S*)?")


@dataclass(frozen=True, slots=True)
class Licence:
    """A licence as it was stated.

    Attributes:
        name: its SPDX name, or its address.
        commercial: whether it allows commercial use; None where nobody here knows.
    """

    name: str
    commercial: bool | None

    @property
    def url(self) -> str:
        """Return where its text stands."""
        return self.name if self.commercial is None else f"https://spdx.org/licenses/{self.name}.html"

    @property
    def hub(self) -> dict[str, str]:
        """Return what a dataset card's YAML says of it: `license`, and where the hub has no name for it, what it is."""
        if self.commercial is None or self.name in _NOT_ON_HUB:
            label = "custom" if self.commercial is None else self.name.lower()
            return {"license": "other", "license_name": label, "license_link": self.url}
        return {"license": _HUB.get(self.name, self.name.lower())}


def licence_of(text: str) -> Licence:
    """Return the licence that a recipe states: an SPDX name, in any case, or an address.

    Raises:
        ValueError: it is neither; the message says what is near.
    """
    stated = text.strip()
    if _ADDRESS.fullmatch(stated):
        return Licence(stated, None)
    name = _BY_SMALL.get(stated.lower())
    if name is None:
        near = difflib.get_close_matches(stated.lower().replace(" ", "-"), list(_BY_SMALL), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(_BY_SMALL[n] for n in near)}? " if near else ""
        raise ValueError(f"{hint}give an SPDX name such as CC-BY-4.0 or CC-BY-NC-4.0, or the address of its text")
    return Licence(name, name in _FREE)
