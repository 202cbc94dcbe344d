"""The error of whatever a launch needs and does not find, known to devices and backends alike."""


class MissingDependency(ImportError):
    """Something that is needed is not there; the message says what and how to get it."""
