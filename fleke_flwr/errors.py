"""The exceptions a user can meet, as a tree.

FlekeError
├── ConfigError            a key, value or file of the configuration is wrong
├── DataError              a data file or a record cannot be used
│   └── RequestError       one edit request is malformed
├── ModelError             a model cannot be loaded or edited
│   └── UnsupportedModelError   its family has no row in the table yet
├── StatisticsError        a covariance or a solve cannot be trusted
├── PayloadError           what a client sent was refused
├── RunError               too few good replies, or a run that failed
└── WorldError             a trained world model does not meet its checks

Every message says what was found, where, and what to do.
"""

from __future__ import annotations


class FlekeError(Exception):
    """Base of all errors that are the user's, the data's or a client's, not a bug."""


class ConfigError(FlekeError):
    """A configuration key, value or file is wrong."""


class DataError(FlekeError):
    """A data file or a record cannot be used."""


class RequestError(DataError):
    """One edit request is malformed."""


class ModelError(FlekeError):
    """A model cannot be loaded or edited."""


class UnsupportedModelError(ModelError):
    """The model's family has no row in the family table."""


class StatisticsError(FlekeError):
    """A covariance or a solve cannot be trusted."""


class PayloadError(FlekeError):
    """A client's payload was refused."""


class RunError(FlekeError):
    """A run cannot go on, for example with too few good replies."""


class WorldError(FlekeError):
    """A trained world model does not meet its stated checks."""
