"""How the dashboard looks: views become HTML, with one style sheet, charts that are drawn here, and a short script.

Rules:
- Nothing is fetched from elsewhere, and the page's policy allows no style or script inside of it.
- A colour never says anything alone: a word, a mark or a number says it too.
- Pages work without their script. It only keeps them fresh.
"""

from __future__ import annotations

from keyguard.dashboard.looks.page import Drawn, page
from keyguard.dashboard.looks.static import CONTENT_SECURITY_POLICY, File, file

__all__ = ["CONTENT_SECURITY_POLICY", "Drawn", "File", "file", "page"]
