"""`chatty-admin devices`: what people use, and revoking it. Asked of the running server, or done in its database."""

import click

from chatty.admin import render
from chatty.admin.acts import ask_or_do, destroy
from chatty.admin.options import Place, TakesId, dry_run_option, json_option, yes_option


@click.group()
def devices() -> None:
    """Look at devices, and revoke them."""


@devices.command("list", epilog="Example: chatty-admin devices list --user @ann:example.org")
@json_option
@click.option("--user", metavar="USER", default="", help="Only those of this user.")
@click.option("--after", metavar="DEVICE", default="", help="The next 1,000 after this one.")
@click.pass_obj
def list_devices(place: Place, as_json: bool, user: str, after: str) -> None:
    """Show devices: whose, the name it was given, whether others encrypt for it, what waits for it."""
    render.print_answer(ask_or_do(place, "devices list", {"user": user, "after": after}), "devices", as_json=as_json)


@devices.command(cls=TakesId, epilog="Example: chatty-admin devices revoke --yes DpZ3bqf0YbX2mC5n1a8sK")
@json_option
@yes_option
@dry_run_option
@click.argument("device")
@click.pass_obj
def revoke(place: Place, as_json: bool, yes: bool, is_dry_run: bool, device: str) -> None:
    """End one device for ever: its session, its right to send, its place in what others encrypt for."""
    question = "Revoke this device?"
    destroy(place, "devices revoke", {"device": device}, question, as_json=as_json, yes=yes, is_dry_run=is_dry_run)
