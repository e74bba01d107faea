"""Settings come from variables and a file; what is wrong is named, and no value of a secret is shown."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from chatty.config import Settings, describe_settings, load_settings


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_variables_and_file_the_defaults_hold() -> None:
    assert load_settings().model_dump() == Settings().model_dump()


def test_a_variable_wins_over_the_file(empty_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_directory / "chatty.toml").write_text('port = 9001\nserver_name = "chat.example.org"\n')
    monkeypatch.setenv("CHATTY_PORT", "9002")
    settings = load_settings()
    assert (settings.port, settings.server_name) == (9002, "chat.example.org")


def test_an_option_of_the_command_line_wins_over_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATTY_PORT", "9002")
    assert load_settings(port=9003).port == 9003


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATTY_DATABASE_URL", "")
    assert load_settings().is_embedded


def test_made_directly_the_settings_read_nothing(empty_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_directory / "chatty.toml").write_text("port = 9001\n")
    monkeypatch.setenv("CHATTY_HOST", "::1")
    assert (Settings().port, Settings().host) == (8000, "127.0.0.1")


def test_the_file_may_be_named_by_a_variable(empty_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_directory / "other.toml").write_text("port = 9001\n")
    monkeypatch.setenv("CHATTY_CONFIG", str(empty_directory / "other.toml"))
    assert load_settings().port == 9001


def test_a_named_file_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATTY_CONFIG", "nowhere.toml")
    with pytest.raises(ValueError, match=r"^CHATTY_CONFIG: there is no such file$"):
        load_settings()


def test_a_file_that_is_not_toml_is_named(empty_directory: Path) -> None:
    (empty_directory / "chatty.toml").write_text("port: 9001\n")
    with pytest.raises(ValueError, match=r"^chatty\.toml: .*line 1"):
        load_settings()


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("CHATTY_PORT", "99999", "less than or equal to 65535"),
        ("CHATTY_PORT", "many", "valid integer"),
        ("CHATTY_POOL_CONNECTIONS_MAX", "0", "greater than or equal to 1"),
        ("CHATTY_DRAIN_TIMEOUT_S", "inf", "finite"),
        ("CHATTY_LOG_LEVEL", "loud", "'debug'"),
        ("CHATTY_PUBLIC_ORIGIN", "https://chat.example.org/path", "a scheme, a host"),
        ("CHATTY_SERVER_NAME", "Chat Server", "a host name"),
        ("CHATTY_ACCESS_TOKEN_LIFETIME_S", "601", "less than or equal to 600"),
        ("CHATTY_KEY_DERIVATIONS", "64 MiB", "must be bytes/passes"),
        ("CHATTY_KEY_DERIVATIONS", "67108864/3,", "must be bytes/passes"),
        ("CHATTY_KEY_DERIVATIONS", "67108863/3", "clients refuse"),
        ("CHATTY_KEY_DERIVATIONS", "67108864/3, 1073741825/3", "clients refuse"),
        ("CHATTY_KEY_DERIVATIONS", "67108864/1", "clients refuse"),
        ("CHATTY_KEY_DERIVATIONS", "67108864/17", "clients refuse"),
    ],
)
def test_a_wrong_value_is_refused_with_name_and_reason(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"^{variable}: .*{reason}"):
        load_settings()


def test_all_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATTY_PORT", "-1")
    monkeypatch.setenv("CHATTY_LOG_FORMAT", "xml")
    with pytest.raises(ValueError, match=r"CHATTY_PORT: .*\nCHATTY_LOG_FORMAT: "):
        load_settings()


@pytest.mark.parametrize(
    "wrong",
    [
        {"outbox_bytes_max": 2048},
        {"refresh_idle_lifetime_s": 10.0, "refresh_absolute_lifetime_s": 5.0},
        {"journal_batch_max": 5_000},
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        load_settings(**wrong)


def test_the_value_of_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATTY_DATABASE_URL", "mysql://ann:hunter2@db")
    with pytest.raises(ValueError, match="must begin with") as caught:
        load_settings()
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"
    with pytest.raises(ValidationError) as direct:
        Settings.model_validate({"database_url": "mysql://ann:hunter2@db"})
    assert "hunter2" not in str(direct.value)
    settings = Settings.model_validate({"database_url": "postgresql://ann:hunter2@db/chatty"})
    assert "hunter2" not in f"{settings} {settings!r} {settings.model_dump_json()}"


def test_a_secret_may_stand_in_a_file(empty_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_directory / "url").write_text("postgresql://ann@db/chatty\n")
    monkeypatch.setenv("CHATTY_DATABASE_URL_FILE", "url")
    url = load_settings().database_url
    assert url is not None
    assert url.get_secret_value() == "postgresql://ann@db/chatty"


def test_a_secret_in_both_places_is_refused(empty_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_directory / "key").write_text("one")
    monkeypatch.setenv("CHATTY_MASTER_KEY_FILE", "key")
    monkeypatch.setenv("CHATTY_MASTER_KEY", "two")
    with pytest.raises(ValueError, match="master_key and master_key_file are both set"):
        load_settings()


def test_a_secret_file_that_is_missing_or_no_text_is_named(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATTY_MASTER_KEY_FILE", "key")
    with pytest.raises(ValueError, match="master_key_file cannot be read: No such file"):
        load_settings()
    (empty_directory / "key").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="master_key_file cannot be read: not UTF-8"):
        load_settings()


def test_an_unknown_variable_is_refused_and_the_closest_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATTY_PROT", "9000")
    with pytest.raises(ValueError, match=r"^CHATTY_PROT: no such setting; did you mean CHATTY_PORT\?$"):
        load_settings()


def test_an_unknown_name_in_the_file_is_refused_and_the_closest_named(empty_directory: Path) -> None:
    (empty_directory / "chatty.toml").write_text("sesions_max = 5\n")
    with pytest.raises(ValueError, match=r"no such setting; did you mean sessions_max\?$"):
        load_settings()


@pytest.mark.parametrize(
    ("registration", "database_url", "mode"),
    [
        (None, None, "open"),
        (None, "postgresql://db/chatty", "closed"),
        ("open", "postgresql://db/chatty", "open"),
        ("invite", None, "invite"),
    ],
)
def test_registration_is_open_only_when_embedded_or_chosen(
    registration: str | None, database_url: str | None, mode: str
) -> None:
    settings = Settings.model_validate({"registration": registration, "database_url": database_url})
    assert settings.registration_mode == mode


@pytest.mark.parametrize(
    ("name", "value"), [("limit_sends_device", "many"), ("trusted_proxies", "10.0.0.0/8, proxy.example.org")]
)
def test_a_rate_or_network_that_is_none_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=f"{name}\n.*such as"):
        Settings.model_validate({name: value})


@pytest.mark.parametrize(
    ("origin", "chosen", "expected"),
    [
        ("https://chat.example.org:8443", "", "chat.example.org"),
        ("https://chat.example.org", "chat.example.org", "chat.example.org"),
        ("https://chat.example.org", "example.org", "example.org"),
        ("https://chat.example.org", "ample.org", None),
        ("https://chat.example.org", "other.org", None),
        ("https://chat.example.org", "www.chat.example.org", None),
    ],
)
def test_passkeys_belong_to_the_public_origins_domain_or_one_above_it(
    origin: str, chosen: str, expected: str | None
) -> None:
    if expected is None:
        with pytest.raises(ValidationError, match="passkey_rp_id"):
            Settings(public_origin=origin, passkey_rp_id=chosen)
    else:
        assert Settings(public_origin=origin, passkey_rp_id=chosen).relying_party_id == expected


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1


def test_every_setting_describes_itself() -> None:
    described = list(describe_settings())
    assert len(described) == len(Settings.model_fields)
    assert [variable for variable, _, text in described if not text.endswith(".")] == []
