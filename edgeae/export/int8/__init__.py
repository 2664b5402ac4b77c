"""int8 graphs of our own: float cores in, integer cores out, by a recipe that is measured on rows held out.

`layers` brings a core into forms with integer kernels, `ranges` looks at the values that pass through it, `equalise`
evens them out, `integers` writes the integer layers, `fuse` takes float detours out of the whole graph, `choose` tries
the recipes, and `calibrate` finds the rows for it.
"""
