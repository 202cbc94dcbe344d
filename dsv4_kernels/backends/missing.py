"""The error of whatever a launch needs and does not find, known to devices and backends alike."""


class MissingDependency(ImportError):
    """Something that is needed is not there; the message says what and how to get it."""


def with_extra(*extras: str) -> str:
    """How to get what an extra of the package names: it is on no index, so from the repository."""
    return f"pip install -e '.[{','.join(extras)}]' in a checkout of dsv4-kernels"
