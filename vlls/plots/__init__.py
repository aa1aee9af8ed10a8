"""The figures of the book, one function each; they return matplotlib figures and need the extra ``plots``."""
