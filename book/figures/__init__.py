"""The figures of the book's chapters, a module for each; those of use to any user are in :mod:`vlls.plots`."""
