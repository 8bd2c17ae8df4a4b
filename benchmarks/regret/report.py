"""``python -m benchmarks.regret.report``: what is on record as ``report.md`` and ``regret.png``, in seconds."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.regret.figure import draw
from benchmarks.regret.markdown import render
from benchmarks.regret.store import Store
from benchmarks.regret.summary import gather


def main(folder: Path | None = None) -> None:
    """Write ``report.md`` and ``regret.png`` beside the raw results."""
    store = Store() if folder is None else Store(folder)
    results = gather(store)
    text = render(results, gather(store, unseen=True), store)
    (store.folder / "report.md").write_text(text)
    if results.tables:
        draw(results, store.folder / "regret.png")
    print(text)


if __name__ == "__main__":
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    main()
