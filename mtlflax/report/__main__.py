"""Report on runs: their table, and a page to look at.

    python -m mtlflax.report DIR [DIR ...] --out=DIR

Every workdir in the folders is read, at any depth: finished runs, runs that go on, and runs that died. Written are

    index.html         everything on one page, with curves and pictures (needs Matplotlib: the extra `report`)
    table.md           the table, how it compares with the single-task networks, and notes on the numbers
    table.csv          one row for runs that differ in their seed alone
    chosen.csv         if variants were chosen on held-out frames, the row of the best one of each group
    differences.csv    how each row of several tasks compares with its single-task networks
"""

import sys
from collections.abc import Sequence

from mtlflax import command_line
from mtlflax.errors import UserError
from mtlflax.files import write_text
from mtlflax.report import page, runs, summary, table
from mtlflax.run import evaluations


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = command_line.Parser("mtlflax.report", __doc__ or "")
    parser.add_argument(
        "folders", type=command_line.path, nargs="+", metavar="DIR", help="workdirs, or folders of them"
    )
    parser.add_argument("--out", type=command_line.path, required=True, metavar="DIR", help="where to write the report")
    parser.add_argument(
        "--metrics",
        type=lambda text: [part.strip() for part in text.split(",") if part.strip()],
        default=[],
        metavar="TASK/METRIC,...",
        help="the columns, such as segmentation/miou,depth/abs_rel (default: the first metric of each task)",
    )
    parser.add_argument(
        "--evaluation",
        choices=("best", "last"),
        default="best",
        help="best (the default): scores of the best epoch, from best.json; last: of the last evaluation, from "
        "results.json, such as one by --mode=evaluate at full size",
    )
    options = parser.parse_args(argv)
    prefer = evaluations.BEST if options.evaluation == "best" else evaluations.LAST
    records, wrong = runs.read_all(runs.find(options.folders), prefer)
    for line in wrong:
        print(f"NOTE: {line}", file=sys.stderr)
    report = summary.summarize(table.rows(records), options.metrics)
    text = report.markdown()
    write_text(options.out / "table.md", text)
    for name, part in report.parts().items():
        write_text(options.out / f"{name}.csv", table.to_csv(part.header, part.cells))
    written = ["table.md", *[f"{name}.csv" for name in report.parts()]]
    try:
        write_text(options.out / "index.html", page.page(report, ", ".join(str(folder) for folder in options.folders)))
        written.append("index.html")
    except UserError as error:  # without Matplotlib
        print(f"NOTE: no index.html: {error}")
    print(text)
    print(f"written to {options.out}: {', '.join(written)}")


if __name__ == "__main__":
    command_line.run(main)
