"""The report of a folder of ``mmprune compress``: what was asked, done, gained and lost, on one page.

Open ``page.py`` first: it puts the sections together, one file each (``outcome``, ``choice``, ``networks``,
``channels``, ``profile``, ``stays``, ``progress``, ``again``), from what ``road.py`` reads. Sections are made of the
parts in ``content.py``, which ``html.py`` (with ``style.py``) and ``markdown.py`` write, and ``svg.py`` draws.
"""
