"""What the commands share: where the server's data are, whether the answer is JSON, and what destroys is confirmed."""

import sys
from dataclasses import dataclass
from pathlib import Path

import click

from chatty.config import Settings, load_settings
from chatty.errors import BadConfiguration, NotConfirmed

json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, with stable keys.")
yes_option = click.option("--yes", is_flag=True, help="Do it without asking.")


def confirm(yes: bool, question: str) -> None:
    """Before something is destroyed: asked on a terminal, refused elsewhere. Raises: NotConfirmed."""
    if yes or (sys.stdin.isatty() and click.confirm(question, err=True)):
        return
    raise NotConfirmed("nothing was changed; --yes does it without asking")


@dataclass(frozen=True)
class Place:
    """chosen_data_dir: by --data-dir or CHATTY_DATA_DIR; then no other setting is needed to find the socket."""

    chosen_data_dir: Path | None

    @property
    def data_dir(self) -> Path:
        """Raises: BadConfiguration."""
        return self.chosen_data_dir if self.chosen_data_dir is not None else self.settings().data_dir

    def settings(self) -> Settings:
        """As the server reads them. Raises: BadConfiguration."""
        chosen = {} if self.chosen_data_dir is None else {"data_dir": self.chosen_data_dir}
        try:
            return load_settings(**chosen)
        except ValueError as error:
            raise BadConfiguration(str(error)) from None
