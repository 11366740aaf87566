"""Write the report of a compressed network: what was asked, done, gained and lost, as one html file and as markdown.

mmprune report FOLDER
python tools/report.py FOLDER

FOLDER is what `mmprune compress` leaves behind, complete or not. `FOLDER/report.html` is a file of its own, for any
browser; `FOLDER/report.md` has the same contents, its charts in `FOLDER/report_pictures`. What is measured or traced
for the report is kept in `FOLDER/report_profile.json` and `FOLDER/report_units.json`: delete them to have it done anew.
"""
from pathlib import Path
from typing import Optional, Sequence

from ..command_line import command_parser
from ..report.page.page import write_report
from ..report.page.road import read_road


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('folder', help='folder of `mmprune compress`')
    args = parser.parse_args(argv)
    html, markdown = write_report(read_road(Path(args.folder)))
    print(f'wrote {html} and {markdown}')
