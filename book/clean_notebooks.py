"""Remove outputs, counts and other metadata from the chapters before a commit: ``make clean-notebooks``.

Sources and tags stay, and plain-text outputs of cells that start with ``# NBVAL_CHECK_OUTPUT``.
"""

from pathlib import Path

import nbformat
from nbformat import NotebookNode

MARK = "# NBVAL_CHECK_OUTPUT"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def clean_output(output: NotebookNode) -> NotebookNode | None:
    """Return the plain text of an output, or None if it has none that can be compared."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    text = output.get("data", {}).get("text/plain")
    if output.output_type != "execute_result" or text is None:
        return None
    return nbformat.v4.new_output("execute_result", data={"text/plain": text}, execution_count=None)


def clean(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook as it is committed; a clean one comes back equal."""
    notebook = nbformat.from_dict(notebook)
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            kept = map(clean_output, cell.outputs) if cell.source.startswith(MARK) else []
            cell.outputs = [output for output in kept if output is not None]
            cell.execution_count = (
                1 if cell.outputs else None
            )  # nbval refuses outputs of a cell without a count
    return notebook


def main() -> None:
    """Clean every chapter in place."""
    for path in sorted(Path(__file__).parent.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        cleaned = clean(notebook)
        if cleaned != notebook:
            nbformat.write(cleaned, path)
            print(f"cleaned {path.name}")


if __name__ == "__main__":
    main()
