"""Streams the number of megabytes that it is told: more than all buffers between a server and a client hold."""

from collections.abc import AsyncIterator

from perdure import bindufy
from perdure.tasks import Artifact, TextPart


async def handler(messages: list[dict[str, str]]) -> AsyncIterator[Artifact]:
    for number in range(int(messages[-1]["content"])):
        yield Artifact(parts=(TextPart(f"{number} ".ljust(1_000_000, ".")),))


bindufy({"name": "flood"}, handler)
