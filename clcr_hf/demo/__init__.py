"""`clcr demo`: a page that scores a clip and shows what decided it. Needs the extra `demo`.

`reading.py` asks the model through `clcr_hf.explain`, `html.py` draws its answer, `app.py` is the page and its server.
"""

from .app import build_page, serve
from .html import draw_reading
from .reading import read_clip

__all__ = ["build_page", "draw_reading", "read_clip", "serve"]
