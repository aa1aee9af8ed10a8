"""Tell the reader of a chapter which cell defines a missing name, if cells were run out of order.

``make lab`` names this file in ``PYTHONSTARTUP``: IPython executes it in every kernel that starts, among the reader's own
names, so it leaves none behind. Where it is not used, a ``NameError`` looks as it always does.
"""


def _explain_missing_names(shell):
    import json
    import os
    import symtable
    from pathlib import Path

    def made_in(name):
        """Return the number of the first cell that defines the name, as JupyterLab counts them, and its first line."""
        try:  # the server's path of the notebook, which may have been moved or changed since
            notebook = json.loads(Path(os.environ["JPY_SESSION_NAME"]).read_text(encoding="utf-8"))
            cells = notebook["cells"]
        except (KeyError, OSError, ValueError):
            return None
        for number, cell in enumerate(cells, start=1):
            source = "".join(cell["source"])
            if cell["cell_type"] != "code":
                continue
            try:
                symbols = symtable.symtable(source, "cell", "exec").get_symbols()
            except SyntaxError:  # a magic
                continue
            if any(s.get_name() == name and (s.is_assigned() or s.is_imported()) for s in symbols):
                return number, source.strip().partition("\n")[0]
        return None

    def explain(shell, kind, error, traceback, tb_offset=None):
        found = made_in(error.name)  # None where it was raised by hand
        if found:
            number, line = found
            error.args = (
                f"{error.args[0]}. It is made in cell {number} of this notebook ('{line}'), which has not been run "
                "here: choose Run, Run All Above Selected Cell, and run this cell again",
            )
        shell.showtraceback((kind, error, traceback), tb_offset=tb_offset)

    shell.set_custom_exc((NameError,), explain)


_explain_missing_names(get_ipython())  # noqa: F821
del _explain_missing_names
