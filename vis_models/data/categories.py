"""Two lists of categories joined by name: ids and order mean nothing between files, nor does how a name is spelled.

Names are equal when only case, spaces, `_` and `-` tell them apart; a name that is there letter by letter comes first.
"""

from collections.abc import Collection, Iterable


def counterparts(names: Iterable[str], others: Collection[str]) -> dict[str, str | None]:
    """For each name the one among the others that means the same; None: there is none."""
    alike = {spelled_alike(other): other for other in others}
    return {name: name if name in others else alike.get(spelled_alike(name)) for name in names}


def spelled_alike(name: str) -> str:
    """What spellings of one name have in common."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
