"""The error tree of package ``training``.

TrainingError
├── ConfigError            a config that cannot mean what was meant
├── DataError              a row that is not what it should be: file, line and reason
├── StageError             a stage that cannot run or resume
└── NonFiniteLossError     a loss that is NaN or infinite: stage, step and batch

Every message is one sentence for the person who must act: what, where, and what to do.
"""


class TrainingError(Exception):
    """Root of all errors that ``training`` raises on purpose."""


class ConfigError(TrainingError):
    """A config that cannot mean what was meant."""


class DataError(TrainingError):
    """A row that is not what it should be: file, line and reason."""


class StageError(TrainingError):
    """A stage that cannot run or resume."""


class NonFiniteLossError(TrainingError):
    """A loss that is NaN or infinite: stage, step and batch."""
