"""The errors that are meant for the user: one family, each with the exit code of the command that it ends."""

DONE, ERROR, USAGE, REJECTS, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes of all commands: done, error, bad usage, done with rejects, interrupted."""


class UserError(Exception):
    """Something that the user can mend; its text says what was wrong, where, and what to do.

    A command prints the text without a traceback and exits with `exit_code`.
    """

    exit_code = ERROR


class ConfigError(UserError, ValueError):
    """The configuration is wrong: bad usage. One line per problem."""

    exit_code = USAGE
