"""examples/skills.py behind a real front door, by the official client and by `perdure send`."""

from __future__ import annotations

from pathlib import Path

import httpx
from a2a.client.client import ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict, ParseDict  # type: ignore[import-untyped] # its stubs are a package of their own

from tests.support.processes import PERDURE, ROOT, finished, serving, surroundings

EXAMPLE = str(ROOT / "examples" / "skills.py")


async def test_the_official_client_sends_data_to_a_skill(tmp_path: Path) -> None:
    with serving([PERDURE, "serve", EXAMPLE, "--port", "0"], cwd=tmp_path) as server:
        async with httpx.AsyncClient() as http:
            client = await ClientFactory(ClientConfig(httpx_client=http, streaming=False)).create_from_url(
                server.url
            )
            message = {
                "messageId": "1",
                "role": "ROLE_USER",
                "metadata": {"skillId": "forecast"},
                "parts": [{"data": {"city": "Lisbon", "days": 2}}],  # numbers become floats in its protobuf
            }
            request = pb.SendMessageRequest(message=ParseDict(message, pb.Message()))
            [answer] = [each async for each in client.send_message(request)]
    [part] = answer.task.artifacts[0].parts
    assert MessageToDict(part.data) == {"city": "Lisbon", "forecast": ["sunny, 21 °C"] * 2}


def test_the_command_line_names_a_skill(tmp_path: Path) -> None:
    with serving([PERDURE, "serve", EXAMPLE, "--port", "0"], cwd=tmp_path) as server:

        def sent(*arguments: str) -> tuple[int, str, str]:
            command = [PERDURE, "send", "--to", server.url, *arguments]
            result = finished(command, cwd=tmp_path, env=surroundings())
            return result.returncode, result.stdout.strip(), result.stderr

        assert sent("--skill", "compare", '{"cities": ["Rome", "Oslo"]}')[:2] == (0, "It is warmest in Oslo.")
        code, _, said = sent("--skill", "compare", '{"cities": 1}')
        assert (code, "cities: " in said) == (1, True)
        code, printed, said = sent("hello")
        assert (code, "Which skill: forecast, compare?" in printed + said) == (3, True)
