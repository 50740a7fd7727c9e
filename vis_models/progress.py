"""How long work says how far it is: what every job takes and the flows show as bars, lines and artifacts."""

from collections.abc import Callable
from typing import Any

Progress = Callable[[str, int, int, dict[str, Any]], None]
"""Called with the name of a stage, how much of it is done, of how much, and figures to show beside it."""
