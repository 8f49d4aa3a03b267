"""`clipsec plugin`: write a new one, check one, sign one, write down which may be imported."""

from __future__ import annotations

import click

from clipsec.cli._check import check_command
from clipsec.cli._new import new_command
from clipsec.cli._sign import keygen_command, sign_command
from clipsec.cli._trust import trust_command


@click.group("plugin", short_help="Write, check, sign and trust plugins.")
def plugin_group() -> None:
    """Write, check, sign and trust plugins."""


for _command in (check_command, keygen_command, new_command, sign_command, trust_command):
    plugin_group.add_command(_command)
