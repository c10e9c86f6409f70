"""Puts a page together: one HTML file under a content security policy that lets nothing in from outside.

Everything that a run says goes through the template's escaping, after `visible` made control characters and marks of
the text direction visible.  The one script and the one style sheet are allowed by their digests; style attributes,
event handlers, other scripts, images, frames, forms and connections are not.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from halo_forge.core.wording import visible
from halo_forge.pages.run_page import Facts, Section
from halo_forge.pages.samples import Payload

_HERE = Path(__file__).parent


@lru_cache
def _own(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def policy(*, live: bool) -> str:
    """The content security policy of a page; a served page may ask its own server whether there is news."""
    digests = {name: base64.b64encode(hashlib.sha256(_own(name).encode()).digest()).decode() for name in _INLINE}
    rules = {
        "default-src": "'none'",
        "script-src": f"'sha256-{digests['page.js']}'",
        "style-src": f"'sha256-{digests['page.css']}'",
        "connect-src": "'self'" if live else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


_INLINE = ("page.js", "page.css")


def _shown(value: Any) -> Any:
    """What the template inserts: text with its invisible characters as escapes, checked drawings as they are."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else visible(value)


def html(
    facts: Facts,
    sections: Sequence[Section],
    samples: Payload | None,
    *,
    notes: Sequence[str] = (),
    state: str | None = None,
) -> str:
    """The whole page.

    Args:
        samples: None where there are none yet.
        notes: About the samples: what is left out, and which prompts are not known.
        state: Digest of what a served page shows; None for a file.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        policy=policy(live=state is not None),
        # Their text is ours, and their digests are those of the policy: not escaped.
        script=Markup(_own("page.js")),
        style=Markup(_own("page.css")),
        facts=facts,
        sections=sections,
        samples=samples,
        notes=notes,
        state=state,
    )
