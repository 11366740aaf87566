"""The page in a headless Chromium, where there is one: nothing is wider than a phone or a desktop window."""
import re
import shutil
import subprocess

import pytest
from compressed_folders import write_folder

from mmprune.report.page.page import write_report
from mmprune.report.page.road import read_road

BROWSER = next(filter(None, map(shutil.which, (
    'chromium-headless-shell', 'chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
#: Tells the page around it how wide it is, and what is wider than the window without a box of its own to scroll in.
PROBE = '''<script>
const wide = [...document.querySelectorAll('main *')].filter(one => !one.closest('.scroll, pre, svg') &&
  one.getBoundingClientRect().right > window.innerWidth + 0.5).map(one => one.tagName + '.' + one.className);
const small = [...document.querySelectorAll('.name, .note, td, p')].filter(one => one.textContent.length > 3 &&
  one.getBoundingClientRect().width > 0 && one.getBoundingClientRect().width < 16).map(one => one.textContent);
parent.postMessage([window.innerWidth, document.documentElement.scrollWidth, wide.join(' ') || 'none',
  small.join(' ') || 'none'].join(';'), '*');
</script></body>'''
#: A window of a browser has a least width, a frame has none.
FRAME = '''<body><script>
addEventListener('message', event => document.body.setAttribute('data-found', event.data));
</script>
<iframe src="{page}" style="width: {width}px; height: 900px; border: 0"></iframe></body>'''


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    """The page of a folder, all of it unfolded, with a probe in it; a page itself has no script."""
    folder = tmp_path_factory.mktemp('compressed')
    write_folder(folder)
    text = write_report(read_road(folder))[0].read_text()
    text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', '', text).replace('<details>', '<details open>')
    path = folder / 'probe.html'
    path.write_text(text.replace('</body>', PROBE))
    return path


@pytest.mark.skipif(BROWSER is None, reason='needs a headless Chromium')
@pytest.mark.parametrize('width', [390, 1280])
def test_nothing_is_wider_than_the_window(page, width, tmp_path):
    frame = tmp_path / 'frame.html'
    frame.write_text(FRAME.format(page=page.as_uri(), width=width))
    done = subprocess.run([BROWSER, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path}',
                           '--window-size=1600,1000', '--virtual-time-budget=5000', '--dump-dom', frame.as_uri()],
                          capture_output=True, text=True, timeout=120)
    found = re.search('data-found="([^"]*)"', done.stdout)
    assert found, done.stderr
    inner, scroll, wide, small = found.group(1).split(';')
    assert int(inner) == width
    assert int(scroll) <= width
    assert wide == small == 'none'
