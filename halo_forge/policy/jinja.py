"""Jinja as chat templates know it, for what has to be known without transformers."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import Environment

CLOCK = "strftime_now"
"""The function with which transformers lets a chat template read the clock."""


def uses(name: str, template: str) -> bool:
    """Whether a template uses a name that it does not define itself; comments and text do not count."""
    from jinja2 import TemplateError, meta

    try:
        return name in meta.find_undeclared_variables(environment().parse(template))
    except TemplateError:
        return name in template  # rendering says what is wrong with it


@functools.cache
def environment() -> Environment:
    """Jinja as chat templates know it: what transformers adds to the language except for the clock, in a sandbox."""
    from jinja2 import ext, nodes
    from jinja2.exceptions import TemplateError
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(ext.Extension):
        """`{% generation %}` marks what the assistant says; the text is the same without it."""

        tags = {"generation"}  # noqa: RUF012 -- jinja declares it as a variable of instances

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    def to_json(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    made.filters["tojson"] = to_json
    made.globals["raise_exception"] = raise_exception
    return made
