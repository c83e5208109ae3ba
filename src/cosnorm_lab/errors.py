"""The one exception the laboratory raises for what its user can mend."""


class LabError(Exception):
    """Something the user can mend: the message says what was expected, what came, and how to go on.

    The command line prints the message alone, without a traceback.
    """
