"""Settings: what is read, what is refused, what is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from perdure.errors import ConfigError
from perdure.reference import describe, env_example, shown, with_tables
from perdure.settings import AuthSettings, Settings, load_settings
from tests.support.processes import ROOT

DATABASE = "postgresql://user:hunter2@db.example:5432/tasks"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for row in describe(Settings()):
        monkeypatch.delenv(row.name, raising=False)
    monkeypatch.chdir(tmp_path)


def refusal(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """The one line that these variables give."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused:
        load_settings()
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)
    return str(refused.value)


def test_defaults_are_the_embedded_mode() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert (settings.storage_type, settings.queue_type) == ("memory", "inline")


def test_the_environment_goes_before_the_file_and_arguments_before_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(
        "PORT=1\nHOST=file\nQUEUE_NAME=file\nUNRELATED=1\nSTORAGE__POOL_SIZE=7\n", encoding="utf-8"
    )
    monkeypatch.setenv("PORT", "2")
    monkeypatch.setenv("HOST", "environment")
    settings = load_settings(port=3, host=None)
    assert (settings.port, settings.host, settings.queue_name) == (3, "environment", "file")
    assert settings.storage.pool_size == 7
    assert settings.storage.max_overflow == Settings().storage.max_overflow


def test_an_empty_value_counts_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("DATABASE_URL", "")
    assert load_settings() == Settings()


def test_names_and_choices_may_be_upper_or_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("port", "5")
    monkeypatch.setenv("LOG__LEVEL", "INFO")
    assert load_settings().port == 5
    monkeypatch.setenv("PORT", "6")
    assert load_settings().port == 6


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("STORAGE__POOL_SIZE", "0", "STORAGE__POOL_SIZE: Input should be greater than or equal to 1"),
        ("PORT", "http", "PORT: Input should be a valid integer"),
        ("STORAGE_TYPE", "mongo", "STORAGE_TYPE: Input should be 'memory' or 'postgres'"),
        ("REDIS_URL", "http://:hunter2@x", "REDIS_URL: an address must start with redis://"),
        ("DATABASE_URL", "mysql://x:hunter2@h/d", "DATABASE_URL: an address must start with postgresql://"),
        ("AUTH__BOOTSTRAP_KEY", "hunter2", "AUTH__BOOTSTRAP_KEY: must be 32 characters or more"),
        ("AUTH__BOOTSTRAP_KEY", "hunter2 " * 8, "AUTH__BOOTSTRAP_KEY: must be 32 characters or more"),
        ("AUTH__JWT_ISSUER", "https://a|b", "AUTH__JWT_ISSUER: an issuer has neither spaces nor |"),
        ("AUTH__JWKS_URL", "http://localhost.evil.test/jwks", "AUTH__JWKS_URL: must start with https://"),
        ("AUTH__OIDC_ISSUER", "http://[", "AUTH__OIDC_ISSUER: is no address"),
        ("AUTH__PROXY_ADDRESSES", "10.0.0.0/8, proxy", "AUTH__PROXY_ADDRESSES: 'proxy' does not appear"),
        ("AUTH__PROXY_ADDRESSES", "10.0.0.1/8", "AUTH__PROXY_ADDRESSES: 10.0.0.1/8 has host bits set"),
        ("AUTH__PROXY_SCOPES", "read,own", "AUTH__PROXY_SCOPES: 'own' is no scope: there are read, write"),
    ],
)
def test_a_wrong_value_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    assert refusal(monkeypatch, **{name: value}).startswith(says)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (
            {"DATABASE_URL": DATABASE},
            "DATABASE_URL is set, but STORAGE_TYPE is memory: set STORAGE_TYPE=postgres",
        ),
        ({"MIGRATIONS_DATABASE_URL": DATABASE}, "MIGRATIONS_DATABASE_URL is set, but STORAGE_TYPE is memory"),
        (
            {"QUEUE_TYPE": "arq"},
            "QUEUE_TYPE=arq is set, but STORAGE_TYPE is memory: set STORAGE_TYPE=postgres",
        ),
        ({"STORAGE_TYPE": "postgres"}, "STORAGE_TYPE=postgres needs DATABASE_URL=postgresql://"),
        ({"AUTH__API_KEYS": "true"}, "AUTH__API_KEYS is set, but STORAGE_TYPE is memory"),
        ({"AUTH__JWT_ISSUER": "https://i"}, "AUTH__JWT_ISSUER and AUTH__JWKS_URL belong together"),
        ({"AUTH__OIDC_ISSUER": "https://i"}, "AUTH__JWT_AUDIENCE is missing"),
        ({"AUTH__JWT_AUDIENCE": "us"}, "AUTH__JWT_AUDIENCE is set, but neither"),
    ],
)
def test_what_cannot_work_together_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str
) -> None:
    assert refusal(monkeypatch, **variables).startswith(says)


def test_without_a_database_the_stack_that_runs_here_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".perdure").mkdir()
    (tmp_path / ".perdure" / "env").touch()
    told = refusal(monkeypatch, STORAGE_TYPE="postgres")
    assert told.endswith("for the `perdure up` that runs here: set -a; . .perdure/env; set +a")


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("DATABSE_URL", "DATABASE_URL"),  # one missing
        ("DATABASEE_URL", "DATABASE_URL"),  # one too many
        ("DATABASE_URI", "DATABASE_URL"),  # another one
        ("DATABASE_ULR", "DATABASE_URL"),  # two swapped
        ("STORAGE_POOL_SIZE", "STORAGE__POOL_SIZE"),
        ("STORAGE__POOLSIZE", "STORAGE__POOL_SIZE"),
        ("STORGAE__POOL_SIZE", "STORAGE__POOL_SIZE"),
        ("storage_typ", "STORAGE_TYPE"),
    ],
)
def test_a_typing_error_is_refused(monkeypatch: pytest.MonkeyPatch, wrong: str, meant: str) -> None:
    assert refusal(monkeypatch, **{wrong: "1"}) == f"{wrong.upper()} is not a setting; did you mean {meant}?"


def test_a_typing_error_in_the_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("REDIS_URLS=redis://x\n", encoding="utf-8")
    assert refusal(monkeypatch) == "REDIS_URLS is not a setting; did you mean REDIS_URL?"


def test_an_unknown_member_of_a_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(monkeypatch, STORAGE__COLOUR="1").startswith("STORAGE__COLOUR is not a setting")


@pytest.mark.parametrize("name", ["LOG_LEVEL", "POST", "HOSTS", "LOG", "SERVER", "DATABASE_HOST"])
def test_other_peoples_variables_are_ignored(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "nonsense")
    assert load_settings() == Settings()


def test_a_file_that_cannot_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"HOST=\xff\xfe\n")
    assert refusal(monkeypatch).startswith(".env cannot be read: ")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (DATABASE, "postgresql://***@db.example:5432/tasks"),
        ("postgresql://h/d?password=hunter2", "postgresql://h/d"),
        ("postgresql://user:p/hunter2@h/d", "***"),  # a password that should have been encoded
        ("postgresql://user:p#hunter2@h/d", "***"),
        ("postgresql://hunter2@h1:1,h2:2/d", "postgresql://***@h1:1,h2:2/d"),
        ("postgresql://[hunter2/d", "***"),
    ],
)
def test_passwords_are_never_told(url: str, shown: str) -> None:
    rows = {row.name: row for row in describe(load_settings(storage_type="postgres", database_url=url))}
    assert rows["DATABASE_URL"].value == shown
    assert "hunter2" not in repr(rows)


def test_where_a_value_comes_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("QUEUE_NAME=mine\n", encoding="utf-8")
    monkeypatch.setenv("PORT", "80")
    sources = {row.name: row.source for row in describe(load_settings(agent="a.py"))}
    assert [sources[name] for name in ("QUEUE_NAME", "PORT", "AGENT", "HOST")] == [
        ".env",
        "environment",
        "argument",
        "default",
    ]


def test_the_example_and_the_documentation_are_those_of_the_fields() -> None:
    remedy = "written anew by: python -m perdure.reference"
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == env_example(), remedy
    assert with_tables(page) == page, remedy


def test_the_example_changes_nothing_and_is_understood(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(env_example(), encoding="utf-8")
    assert load_settings() == Settings()
    uncommented = [line[1:] for line in env_example().splitlines() if line.startswith("#") and line[1] != " "]
    (tmp_path / ".env").write_text("\n".join(uncommented), encoding="utf-8")
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    "given",
    [
        {"api_keys": True},
        {"bootstrap_key": SecretStr("k" * 32)},
        {"jwt_issuer": "https://i", "jwks_url": "https://i/jwks", "jwt_audience": "us"},
        {"oidc_issuer": "http://127.0.0.1:8080", "jwt_audience": "us"},
        {"proxy_addresses": "10.0.0.0/8, ::1"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_each_method_switches_authentication_on(given: dict[str, Any]) -> None:
    assert AuthSettings(**given).is_on
    assert not AuthSettings().is_on


def test_a_secret_that_is_no_address_is_masked_as_a_whole() -> None:
    assert shown(SecretStr("hunter2" * 8)) == "***"
