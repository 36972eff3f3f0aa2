"""`python -m symjax_gn`, see `command`; its imports take seconds, which Ctrl-C ends at once."""

from symjax_gn.console import end_with, stopping_at_once

if __name__ == "__main__":
    with stopping_at_once():
        from symjax_gn.command import main
    end_with(main())
