"""Imports plotly without what costs a second and serves nobody here.

plotly asks for nbformat, which asks for jsonschema, which compiles the grammar of international addresses (RFC 3987)
where JupyterLab has installed that: 1.3 of the 1.7 s until a first figure, for a check that no notebook has use for.
jsonschema does without the grammar where it is not installed; for the time of this import it is not.
"""

import sys

GRAMMAR = "rfc3987_syntax"

if GRAMMAR not in sys.modules:
    sys.modules[GRAMMAR] = None  # type: ignore[assignment]  # what Python takes for "not to be found"
    try:
        from plotly.io import renderers  # noqa: F401  # the part of it that asks
    finally:
        del sys.modules[GRAMMAR]
