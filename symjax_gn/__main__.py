"""`python -m symjax_gn` and `symjax-gn`, see `command`; Ctrl-C ends even their imports at once."""

from typing import NoReturn

from symjax_gn.console import end_with, stopping_at_once


def run() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    with stopping_at_once():
        from symjax_gn.command import main
    end_with(main())


if __name__ == "__main__":
    run()
