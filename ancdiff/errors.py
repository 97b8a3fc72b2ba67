"""Errors that say what is wrong, where, and what to do instead."""


class AncdiffError(Exception):
    """A problem that the user can mend.

    The command line prints ``what``, ``where`` and ``fix`` without a traceback and exits with ``exit_code``.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        lines = [what]
        if where:
            lines.append(f"  where: {where}")
        if fix:
            lines.append(f"  do:    {fix}")
        super().__init__("\n".join(lines))


class ConfigError(AncdiffError):
    """The configuration has an unknown key, a wrong type or an impossible value."""

    exit_code = 2


class InputError(AncdiffError):
    """A file that the user handed in is missing, unreadable or not what it should be."""

    exit_code = 3


class StageError(AncdiffError):
    """A stage cannot go on (all conformers failed, a loss became non-finite …)."""

    exit_code = 4
