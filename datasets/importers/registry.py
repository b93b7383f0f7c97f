"""Foreign formats by name. One more is its file and a line here."""

import difflib

from causeway.datasets.importers.corro import CORRO
from causeway.datasets.importers.d4rl import D4RL
from causeway.datasets.importers.focal import FOCAL
from causeway.datasets.importers.foreign import Format
from causeway.datasets.importers.macaw import MACAW
from causeway.datasets.importers.minari import MINARI
from causeway.datasets.importers.rllib import RLLIB

FORMATS = {one.name: one for one in (MACAW, FOCAL, CORRO, MINARI, D4RL, RLLIB)}


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        ValueError: there is none; the message lists those that exist.
    """
    if name not in FORMATS:
        nearest = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {name!r}.{hint}")
    return FORMATS[name]
