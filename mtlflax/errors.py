"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """Something the user gave is wrong: a path, a file, a key, a value.

    The message says what is wrong, where, and what to do. Command lines print it without a traceback and exit with a
    code that is not 0.
    """
