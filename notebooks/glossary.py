"""Put the glossary's definitions behind its words: `<abbr>torso</abbr>` in a notebook gets its line from GLOSSARY.md.

    python notebooks/glossary.py            # all notebooks
    python notebooks/glossary.py --check    # change nothing; says which words have another text, or none
"""

from __future__ import annotations

import json
import re
import sys
from html import escape
from pathlib import Path

from xmc_explore.files import replacing

NOTEBOOKS = Path(__file__).resolve().parent
MARKED = re.compile(r"<abbr(?: title=\"[^\"]*\")?>([^<]+)</abbr>")


def terms() -> dict[str, str]:
    """Term -> meaning, from the table in GLOSSARY.md."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", (NOTEBOOKS / "GLOSSARY.md").read_text(encoding="utf-8"), re.M)
    return dict(rows[1:])  # the first is the head of the table


def meaning(word: str, known: dict[str, str]) -> str:
    """The line for a word as it stands in a sentence. KeyError if there is none."""
    return known[term_of(word, known)]


def term_of(word: str, known: dict[str, str]) -> str:
    """The term that a word is: in any case, with a plural s, "P@k" also with a number for k. KeyError for none."""
    folded = {term.casefold(): term for term in known}
    word = re.sub(r"@\d+", "@k", word.casefold())
    return folded.get(word) or folded[word.removesuffix("s")]


def defined(text: str, known: dict[str, str]) -> str:
    """Markdown with every marked word given its line."""
    return MARKED.sub(lambda m: f'<abbr title="{escape(meaning(m[1], known))}">{m[1]}</abbr>', text)


def main(arguments: list[str]) -> int:
    known, stale = terms(), []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] != "markdown":
                continue
            before = "".join(cell["source"])
            try:
                after = defined(before, known)
            except KeyError as error:
                stale.append(f"{path.name}: GLOSSARY.md does not have {error}")
                continue
            if after != before:
                stale.append(f"{path.name}: {before.strip().splitlines()[0][:60]}")
                cell["source"] = after.splitlines(keepends=True)
        if "--check" not in arguments:
            with replacing(path) as beside:
                beside.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print("\n".join(stale) or "every marked word has its line")
    return 1 if stale and ("--check" in arguments or any("does not have" in s for s in stale)) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
