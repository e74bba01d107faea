"""What the demo found out, as `--json` prints it. The keys are stable; docs/operations.md describes them."""

from msgspec import Struct

from chatty.ids import DeviceId, Seq, UserId


class ServerSeen(Struct, frozen=True, kw_only=True):
    """is_own: started by the demo, so that its storage can be searched."""

    origin: str
    server_name: str
    version: str
    is_own: bool


class DeviceSeen(Struct, frozen=True, kw_only=True):
    name: str
    user: UserId
    device: DeviceId


class Stored(Struct, frozen=True, kw_only=True):
    """A message as the database has it. beginning: the first bytes of the ciphertext, hex."""

    sender: str
    device: str
    algorithm: str
    body_bytes: int
    beginning: str


class Told(Struct, frozen=True, kw_only=True):
    """A message as people have it. room: direct or group. read_by: names of devices. stored: null if the server is not ours."""

    room: str
    seq: Seq
    sender: str
    text: str
    read_by: list[str]
    stored: Stored | None


class PlaceSearched(Struct, frozen=True, kw_only=True):
    """control: something that has to be there, and was it found? If not, a search that finds nothing proves nothing."""

    place: str
    file_count: int
    byte_count: int
    found_count: int
    control: str
    is_control_found: bool


class NotSearched(Struct, frozen=True, kw_only=True):
    place: str
    reason: str


class Hit(Struct, frozen=True, kw_only=True):
    """A secret where it must not be. offset: in bytes."""

    secret: str
    form: str
    place: str
    file: str
    offset: int


class Search(Struct, frozen=True, kw_only=True):
    """needle_count: byte strings looked for: secrets × forms, each once."""

    secrets: list[str]
    forms: list[str]
    needle_count: int
    places: list[PlaceSearched]
    not_searched: list[NotSearched]
    found: list[Hit]

    @property
    def is_clean(self) -> bool:
        return not self.found and all(place.is_control_found for place in self.places)


class Report(Struct, frozen=True, kw_only=True):
    """caught_up_count: messages that the switched-off device read when it came back."""

    is_clean: bool
    server: ServerSeen
    devices: list[DeviceSeen]
    messages: list[Told]
    caught_up_count: int
    killed_device: str
    search: Search
    duration_s: float
