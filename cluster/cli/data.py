"""`causeway data`: making, importing, inspecting and verifying data sets."""

import typer

from causeway.cluster.cli.data_collect import collect
from causeway.cluster.cli.data_import import import_foreign
from causeway.cluster.cli.data_inspect import inspect, verify

data = typer.Typer(help="Make, import, inspect and verify data sets.", no_args_is_help=True)
data.command("collect")(collect)
data.command("import")(import_foreign)
data.command("inspect")(inspect)
data.command("verify")(verify)
