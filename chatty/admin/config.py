"""`chatty-admin config`: the settings as the server reads them here, where each comes from, and whether they are right."""

import click

from chatty.admin import render
from chatty.admin.options import Place, json_option
from chatty.config import show_settings, wrong_settings
from chatty.errors import BadConfiguration


@click.group()
def config() -> None:
    """Look at the settings, and check them."""


@config.command(epilog="Example: chatty-admin config show --changed")
@json_option
@click.option("--changed", is_flag=True, help="Only those that are not at their default.")
@click.pass_obj
def show(place: Place, as_json: bool, changed: bool) -> None:
    """Show every setting, its value and where it comes from; secrets stay hidden."""
    found = show_settings(place.settings(), is_data_dir_chosen=place.chosen_data_dir is not None)
    rows = [one for one in found if not changed or one["source"] != "default"]
    render.print_answer({"settings": rows}, "settings", as_json=as_json)


@config.command(epilog="Example: chatty-admin config check --json")
@json_option
@click.pass_context
def check(context: click.Context, as_json: bool) -> None:
    """Tell whether the settings are right, without starting anything; exit with 2 if they are not."""
    place = context.find_object(Place)
    assert place is not None
    place.refuse_elsewhere()
    chosen = {} if place.chosen_data_dir is None else {"data_dir": place.chosen_data_dir}
    problems = wrong_settings(**chosen)
    if as_json:
        render.print_json({"is_right": not problems, "problems": problems})
    elif problems:
        render.print_rows(problems)
    else:
        render.print_facts({"is_right": True})
    if problems:
        detail = f"{len(problems)} wrong: {', '.join(one['setting'] or 'in combination' for one in problems)}"
        render.print_error(BadConfiguration.code, detail, next_command="chatty-admin config show --changed")
        context.exit(BadConfiguration.exit_code)
