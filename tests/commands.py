"""Checks of the errors for wrong use of a command, for the tests of each."""


def error_line(result):
    """Return the one line that is printed, without its beginning."""
    assert result.exit_code == 2 and result.stdout == "", result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def error(result, *words):
    """Check that the last line is the error, and holds these words."""
    assert result.exit_code == 2 and result.stdout == "", result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    for word in words:
        assert word in line, line
