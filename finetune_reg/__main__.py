"""The program `finetune-reg`. It answers Ctrl-C from its first line on, while the command is still being loaded."""

from __future__ import annotations

import os
import signal
from typing import Any

from finetune_reg.errors import INTERRUPTED, INTERRUPTED_CODE


def main() -> None:
    """Run the command. Ctrl-C ends it at once, except in blocks that leave something to tidy up: see `console`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not so in the background of a shell
        signal.signal(signal.SIGINT, _leave)
    from finetune_reg import cli

    cli.main()


def _leave(*_: Any) -> None:
    """End here and now: an exception would be lost, or shown, in half of the modules that are being imported."""
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(INTERRUPTED_CODE)


if __name__ == "__main__":
    main()
