"""Every error a user can cause, as one tree.

    SteepestError            one clear line: what was expected, what came, what to do
    ├── ConfigError          an unknown key, a value out of range, options that exclude each other
    ├── DataError            input that is missing, empty, binary, unreadable or too short
    ├── TokenizerError       a vocabulary the data cannot support, text or files that cannot be encoded
    ├── QueryError           a question that does not parse, or that graph and data do not settle
    ├── CheckpointError      a checkpoint that is damaged, foreign or absent
    ├── RunError             a run name already taken, no such run, a folder made by a newer version
    ├── TrainingError        training that cannot go on: a non-finite loss, too many skipped steps
    └── StorageError         the disk refused: no space left, no permission

The command line prints the one line and exits with status 2; ``--debug`` shows the traceback.
"""


class SteepestError(Exception):
    """Base of all errors that steepest raises for its user.

    >>> str(SteepestError("expected a number"))
    'expected a number'
    """


class ConfigError(SteepestError, ValueError):
    """A configuration that cannot be meant: unknown key, value out of range, excluded combination."""


class DataError(SteepestError):
    """Input data that is missing, empty, binary, unreadable or too short."""


class TokenizerError(SteepestError):
    """A tokenizer that cannot be made, read or applied."""


class QueryError(SteepestError):
    """A question that does not parse, names what is unknown, or that graph and data do not settle."""


class CheckpointError(SteepestError):
    """A checkpoint that is damaged, foreign or absent."""


class RunError(SteepestError):
    """A run folder that is taken, missing, in use or made by a newer version."""


class TrainingError(SteepestError):
    """Training that cannot go on."""


class StorageError(SteepestError):
    """The file system refused: no space left, no permission, read-only."""
