"""The errors that are meant for the user: one family, each with the exit code of the command that it ends."""

DONE, ERROR, USAGE, REJECTS, INTERRUPTED, READER_LEFT = 0, 1, 2, 3, 130, 141
"""Exit codes of all commands: done; an error; wrong usage (options or configuration); done, but rows were rejected;
interrupted by Ctrl-C or SIGTERM; nobody reads the output any more (`… | head -1`).
"""


class UserError(Exception):
    """Something that the user can mend; its text says what was wrong, where, and what to do.

    A command prints the text without a traceback and exits with `exit_code`.
    """

    exit_code = ERROR


class ConfigError(UserError, ValueError):
    """The configuration or an option is wrong; one line per problem."""

    exit_code = USAGE
