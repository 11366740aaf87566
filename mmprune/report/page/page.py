"""The report of a folder: its sections put together, and written as html and markdown."""
from pathlib import Path
from typing import Any, Mapping, Sequence, Tuple

from ...files import write_text
from .again import again_section, check_section
from .channels import channels_section
from .choice import choice_sections
from .content import Page
from .html import html_of
from .markdown import markdown_of, pictures_of
from .networks import networks_section
from .outcome import lead, subtitle, summary_section, target_section
from .profile import profile_section, profiles_of
from .progress import progress_section
from .road import Road
from .stays import stays_section, units_of

HTML, MARKDOWN, PICTURES = 'report.html', 'report.md', 'report_pictures'


def write_report(road: Road) -> Tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` of a folder of ``mmprune compress``, complete or not.

    What has to be measured or traced for it is kept in the folder, so a report that is made again is the same.

    Args:
        road (Road): The folder, as :func:`~.road.read_road` reads it.

    Returns:
        tuple[Path, Path]: The two files.
    """
    folder = road.folder
    page = page_of(road, *profiles_of(road), *units_of(road))
    for name, picture in pictures_of(page).items():
        write_text(picture, folder / PICTURES / name)
    html, markdown = folder / HTML, folder / MARKDOWN
    write_text(html_of(page), html)
    write_text(markdown_of(page, PICTURES), markdown)
    return html, markdown


def page_of(road: Road, profiles: Mapping[str, Any], unmeasured: Sequence[str], units: Mapping[str, Any],
            untraced: str) -> Page:
    """Return the page.

    Args:
        road (Road): What was read.
        profiles (dict): Of :func:`~.profile.profiles_of`.
        unmeasured (list[str]): What went wrong there.
        units (dict): Of :func:`~.stays.units_of`.
        untraced (str): What went wrong there.
    """
    title, below = subtitle(road)
    return Page(title, below, lead(road), [
        summary_section(road), target_section(road), *choice_sections(road), networks_section(road),
        channels_section(road),
        profile_section(road, profiles, unmeasured), stays_section(units, untraced),
        progress_section(road), check_section(road), again_section(road)])
