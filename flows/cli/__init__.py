"""The command `vis`: each verb is one call into a flow or a job, in the file of its group.

Nothing heavy is imported before a verb needs it, so that `vis --help` answers at once.
"""

import signal
import sys

from flows.cli import archives, house, lake, questions, scores, training
from flows.cli.verbs import app
from flows.terminal import as_interrupt, open_closed_streams, unwritten

MENDABLE_EXIT = 2
"""Exit code where the user can mend it, as for a wrong option. 1 is a result: no video could be read."""
GROUPS = (archives, training, scores, questions, house, lake)
ORDER = (
    "world", "train", "ablate", "plan", "segment", "evaluate", "compare", "submission", "report", "check", "query",
    "settings", "up",
)  # fmt: skip
"""In which `vis --help` lists the verbs."""

app.registered_commands.sort(key=lambda verb: ORDER.index(getattr(verb.callback, "__name__", "")))


def main() -> None:
    open_closed_streams()
    signal.signal(signal.SIGTERM, as_interrupt)
    try:
        app()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # of `--output /dev/stdout | head -1`, which click makes a 1
            sys.exit(0)
        if lost := unwritten():
            print(f"vis: the answer could not be written: {lost.strerror}", file=sys.stderr)
            sys.exit(MENDABLE_EXIT)
        raise
    except Exception as error:
        from vis_models.config import BadConfig  # brings pydantic, so not before something went wrong

        if not isinstance(error, BadConfig):
            raise
        print(f"vis: {error}", file=sys.stderr)
        sys.exit(MENDABLE_EXIT)
