"""The figures of the book's chapters, a module a chapter; those that any user may want are in :mod:`vlls.plots`."""
